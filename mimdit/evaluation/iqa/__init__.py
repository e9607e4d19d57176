"""Image quality metrics as papers report them: the list of metrics, their weight files, and scoring through pyiqa."""

from mimdit.evaluation.iqa.metric import DEFAULT_METRICS, METRICS, Metric, metrics_named
from mimdit.evaluation.iqa.scorer import Scorer
from mimdit.evaluation.iqa.weights import WeightFile

__all__ = ["DEFAULT_METRICS", "METRICS", "Metric", "Scorer", "WeightFile", "metrics_named"]
