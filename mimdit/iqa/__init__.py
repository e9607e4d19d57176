"""Image quality as papers report it: which metrics there are, which weights they need, and scoring through pyiqa."""

from mimdit.iqa.metric import DEFAULT_METRICS, METRICS, Metric, metrics_named
from mimdit.iqa.scorer import Scorer
from mimdit.iqa.weights import WeightFile

__all__ = ["DEFAULT_METRICS", "METRICS", "Metric", "Scorer", "WeightFile", "metrics_named"]
