"""``mimdit metrics …``: list metrics, and fetch their weights. Neither needs pyiqa."""

from mimdit.evaluation.iqa.metric import METRICS, metrics_named


def list_metrics() -> None:
    """List the metrics, those that are ready, and the places of the weights that are missing."""
    width = max(map(len, METRICS))
    for metric in METRICS.values():
        kind = "two sets" if metric.of_sets else "with a reference" if metric.reference else "no reference"
        better = "lower" if metric.lower_better else "higher"
        print(f"{metric.name:<{width}}  {'missing' if metric.problem() else 'ready':<8} {kind:<17} {better} is better")
        for file in metric.files:
            if (problem := file.problem()) is not None:
                print(f"{'':<{width}}  {problem}")


def fetch(names: list[str] | None = None) -> None:
    """Download missing weights of metrics into the caches that they are loaded from.

    Args:
        names: Metrics, such as lpips niqe; null is all.
    """
    wanted = {file.place: file for metric in metrics_named(names or METRICS) for file in metric.files if file.problem() is not None}
    for file in wanted.values():
        file.fetch()
        print(f"fetched {file.place}")
    if not wanted:
        print("nothing to fetch: all weights are there")
