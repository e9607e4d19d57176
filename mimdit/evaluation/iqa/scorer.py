"""Scoring of single images: metrics of pyiqa give pyiqa's own numbers; pyiqa is imported when the first of them is loaded."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterable, Iterator

import torch
from huggingface_hub import constants

from mimdit.evaluation.iqa.metric import ALIGNED, GT_MEAN, Metric, metrics_named
from mimdit.evaluation.iqa.protocols import NotAlignedError, aligned_scores, match_mean
from mimdit.evaluation.metrics import psnr, ssim

_OWN = {"psnr_rgb": psnr, "ssim_rgb": ssim}
"""Metrics that are not pyiqa's, by name; they round to 8 bits in any case."""


class Scorer:
    """Metrics of single images, loaded once.

    Nothing is downloaded: a metric whose weights are missing is left out, and ``missing`` names the files it needs.

    Args:
        names: Metrics, as in `mimdit.evaluation.iqa.METRICS` and its variants; metrics of image sets are ignored.
        device: Device of the metrics' models.
        floats: If true, score the values that the model returned, clamped to 0..1; else those that an 8-bit file would hold,
            round(clamp x 255).
        without: Metrics to leave out, each with its reason, such as weights that another rank lacks.

    Raises:
        ValueError: A name is unknown.
    """

    def __init__(
        self, names: Iterable[str], *, device: torch.device | str = "cpu", floats: bool = False, without: dict[str, str] | None = None
    ) -> None:
        self.metrics = [metric for metric in metrics_named(names) if not metric.of_sets]
        self.device, self.floats = torch.device(device), floats
        self.missing = {metric.name: problem for metric in self.metrics if (problem := metric.problem()) is not None} | (without or {})
        self._models: dict[tuple, torch.nn.Module] = {}
        for metric in self.metrics:
            if metric.pyiqa and metric.name not in self.missing:
                self._model(metric)

    @torch.no_grad()
    def score(
        self, image: torch.Tensor, truth: torch.Tensor | None = None, names: Iterable[str] | None = None
    ) -> tuple[dict[str, float | None], dict[str, str]]:
        """Score one image.

        Args:
            image: ``[1, 3, H, W]`` in 0..1; values outside are clamped.
            truth: Ground truth of the same shape, or None if there is none.
            names: Metrics to score; None for all.

        Returns:
            A number or None for each metric, and the reason for each None.

        Raises:
            ValueError: The truth has another shape, or the image has values that are not finite.
        """
        if truth is not None and truth.shape != image.shape:
            raise ValueError(f"an image of shape {list(image.shape)} and a truth of {list(truth.shape)} cannot be compared")
        if not image.isfinite().all():
            raise ValueError("an image to score has values that are not finite: the model returned them")
        image, truth = self.as_scored(image), None if truth is None else self.as_scored(truth)
        wanted = None if names is None else set(names)
        scores: dict[str, float | None] = {}
        notes: dict[str, str] = {}
        for metric in self.metrics:
            if wanted is None or metric.name in wanted:
                value, reason = self._score(metric, image, truth)
                scores[metric.name] = value
                if value is None:
                    notes[metric.name] = reason
        return scores, notes

    def as_scored(self, image: torch.Tensor) -> torch.Tensor:
        """Return the fp32 values of an image ``[1, 3, H, W]`` that are scored."""
        image = image.detach().to(self.device, torch.float32).clamp(0, 1)
        return image if self.floats else (image * 255).round() / 255

    def _score(self, metric: Metric, image: torch.Tensor, truth: torch.Tensor | None) -> tuple[float | None, str]:
        if metric.name in self.missing:
            return None, "weights missing"
        if metric.reference and truth is None:
            return None, "no ground truth"
        if min(image.shape[2:]) < metric.least:
            return None, f"needs {metric.least} pixels a side, the image is {image.shape[3]}x{image.shape[2]}"
        return self._of_image(metric, image) if truth is None or not metric.reference else self._of_pair(metric, image, truth)

    def _of_pair(self, metric: Metric, image: torch.Tensor, truth: torch.Tensor) -> tuple[float | None, str]:
        """Return a metric with reference, after the adjustment that its name implies."""
        if metric.name.endswith(ALIGNED):
            try:
                return aligned_scores(image, truth)[metric.name.startswith("ssim")], ""
            except NotAlignedError as error:
                return None, str(error)
        if metric.name.endswith(GT_MEAN):
            image = match_mean(image, truth)
        if metric.name.removesuffix(GT_MEAN) in _OWN:
            return float(_OWN[metric.name.removesuffix(GT_MEAN)](image, truth)), ""
        return self._of_image(metric, image, truth)

    def _of_image(self, metric: Metric, *images: torch.Tensor) -> tuple[float | None, str]:
        """Return the score by the metric's model of an image, or of image and truth."""
        model = self._model(metric)
        with torch.autocast(self.device.type, enabled=False):
            try:
                value = float(model(*images))
            except torch.linalg.LinAlgError:  # NIQE's fit to an image without any contrast
                return None, "the image has no contrast to take statistics of"
        return (value, "") if math.isfinite(value) else (None, "the score is not finite")

    def _model(self, metric: Metric) -> torch.nn.Module:
        """Return the metric's model, which its variants share."""
        name = (metric.pyiqa, *metric.arguments.items())
        if name not in self._models:
            import pyiqa

            with quietly(), hub_offline():
                self._models[name] = pyiqa.create_metric(metric.pyiqa, device=self.device, **metric.arguments)
        return self._models[name]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence the prints, logs and warnings that pyiqa makes for each file that it loads."""
    logger = logging.getLogger("pyiqa")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def hub_offline() -> Iterator[None]:
    """Use only the hub's cache: otherwise a cached file is compared with the hub's, and replaced by a newer one."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
