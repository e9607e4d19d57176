"""From the results of runs to a paper's tables: scores read, set beside published ones, ranked and written."""

from mimdit.evaluation.report.published import load_published
from mimdit.evaluation.report.scores import Mean, Scores, read_run
from mimdit.evaluation.report.table import Line, Table, make_tables

__all__ = ["Line", "Mean", "Scores", "Table", "load_published", "make_tables", "read_run"]
