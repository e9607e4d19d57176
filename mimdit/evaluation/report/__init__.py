"""A paper's tables from the results of runs: scores beside published ones, ranked, and paired differences between two runs."""

from mimdit.evaluation.report.published import load_published
from mimdit.evaluation.report.runs import Mean, Run, read_run, read_runs
from mimdit.evaluation.report.tables import Line, Table, make_tables

__all__ = ["Line", "Mean", "Run", "Table", "load_published", "make_tables", "read_run", "read_runs"]
