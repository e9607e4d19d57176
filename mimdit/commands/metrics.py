"""``mimdit metrics …``: list metrics, fetch their weights, and fit NIQE's model. Only the last needs pyiqa."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mimdit.evaluation.iqa.metric import METRICS, metrics_named
from mimdit.evaluation.iqa.weights import FittedFile, of_fit


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


def fetch(names: list[str] | None = None, *, folder: Annotated[str | None, Parameter(name="--from")] = None) -> None:
    """Download missing weights of metrics into the caches that they are loaded from.

    Args:
        names: Metrics, such as lpips niqe; null is all.
        folder: Folder to copy the weights from instead of downloading them: files under their own names, and folders models--… of a
            Hugging Face hub cache.

    Raises:
        ValueError: A name is unknown, or a file is damaged.
        OSError: An address cannot be reached, or the folder is missing.
    """
    if folder is not None and not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; name the folder that holds the weights")
    wanted = {file.place: file for metric in metrics_named(names or METRICS) for file in metric.files if file.problem() is not None}
    for file in wanted.values():
        if isinstance(file, FittedFile):
            print(file.problem())
        elif folder is None:
            file.fetch()
            print(f"fetched {file.place}")
        else:
            print(f"copied {file.place}" if file.take(Path(folder)) else f"not in {folder}: {file.problem()}")
    if not wanted:
        print("nothing to fetch: all weights are there")


def fit_niqe(folder: str) -> None:
    """Fit NIQE's model of pristine images to your own photographs, for the metric niqe_fitted.

    Its scores compare runs that were scored with the same model, and never with papers. Sharp photographs without noise or compression
    are needed, at least a dozen.

    Args:
        folder: Folder of photographs.

    Raises:
        ValueError: A photograph cannot be read, or there are too few sharp blocks.
    """
    import torch

    from datamodules.synthetic.photographs import list_photographs, read_photograph
    from mimdit.evaluation.iqa.fitted_niqe import BLOCK, fit_pristine_model

    paths = [Path(folder) / name for name in list_photographs(Path(folder), size=BLOCK)]
    images = (torch.tensor(read_photograph(path)).permute(2, 0, 1)[None] / 255 for path in paths)
    model, place = fit_pristine_model(images), of_fit().place
    model.save(place)
    print(f"{place}: fitted to {model.blocks} sharp blocks of {len(paths)} photographs")
