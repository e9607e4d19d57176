"""List of metrics: pyiqa's under pyiqa's names, variants named by their difference, and this project's own PSNR and SSIM."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mimdit.evaluation.iqa.weights import FittedFile, HubFile, WeightFile, of_clip, of_fit, of_pyiqa, of_timm, of_torchvision

GT_MEAN = "_gt_mean"
"""Suffix of full-reference metrics after the output's mean brightness was set to the truth's."""

ALIGNED = "_aligned"
"""Suffix of PSNR and SSIM after RealBlur's alignment."""


@dataclass(frozen=True)
class Metric:
    """A metric of single images or of two sets of images.

    Attributes:
        name: Its name in configs and results.
        pyiqa: The name that pyiqa creates it by; empty where it is not pyiqa's.
        reference: If true, it compares with a ground truth.
        options: Options in place of pyiqa's defaults.
        least: Minimum length of an image's shorter side, in pixels.
        weights: Functions that return the files it loads.
        weights_option: Option that takes the path of the first of these files; empty if pyiqa finds them itself.
        lower_better: If true, lower is better.
        of_sets: If true, it compares two sets of images.
    """

    name: str
    pyiqa: str
    reference: bool
    options: dict[str, Any] = field(default_factory=dict)
    least: int = 1
    weights: tuple[Callable[[], WeightFile | HubFile | FittedFile], ...] = ()
    weights_option: str = ""
    lower_better: bool = False
    of_sets: bool = False

    @property
    def files(self) -> list[WeightFile | HubFile | FittedFile]:
        """Weight files that it loads, present or missing."""
        return [make() for make in self.weights]

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments that pyiqa creates it with: the options, and the path of the weights if it takes one."""
        return self.options | ({self.weights_option: str(self.files[0].place)} if self.weights_option else {})

    def problem(self) -> str | None:
        """Return a line about the missing files; None if the metric is ready."""
        found = [problem for file in self.files if (problem := file.problem()) is not None]
        return "; ".join(found) or None


def _pyiqa(*names: str) -> tuple[Callable[[], WeightFile], ...]:
    return tuple(partial(of_pyiqa, name) for name in names)


_VIT = "timm/vit_base_patch8_224.augreg2_in21k_ft_in1k"
"""Backbone that MANIQA loads before its own weights replace it."""

_KNOWN = (
    Metric("psnr_rgb", "", True),
    Metric("ssim_rgb", "", True, least=11),
    Metric("psnr", "psnr", True),
    # pyiqa's luma is YIQ's, over the full range; MATLAB's and most papers' is YCbCr's, over 16..235, and 1.3 dB higher.
    Metric("psnry", "psnry", True),
    Metric("psnr_ycbcr", "psnry", True, {"color_space": "ycbcr"}),
    Metric("ssim", "ssim", True, least=11),
    Metric("ssimc", "ssimc", True, least=11),
    Metric("ssim_ycbcr", "ssim", True, {"color_space": "ycbcr"}, least=11),
    Metric("ms_ssim", "ms_ssim", True, least=161),  # the smallest of its five scales must hold a window of 11 pixels
    Metric("gmsd", "gmsd", True, least=2, lower_better=True),
    Metric("fsim", "fsim", True, least=2),
    Metric("vif", "vif", True, least=33),
    Metric("nlpd", "nlpd", True, least=2, lower_better=True),
    Metric(
        "lpips", "lpips", True, least=31, lower_better=True,
        weights=(partial(of_torchvision, "alexnet"), *_pyiqa("LPIPS_v0.1_alex-df73285e.pth")),
    ),
    Metric(
        "lpips-vgg", "lpips-vgg", True, least=16, lower_better=True,
        weights=(partial(of_torchvision, "vgg16"), *_pyiqa("LPIPS_v0.1_vgg-a78928a0.pth")),
    ),
    Metric(
        "dists", "dists", True, lower_better=True,
        weights=(partial(of_torchvision, "vgg16"), *_pyiqa("DISTS_weights-f5e65c96.pth")),
    ),
    Metric("niqe", "niqe", False, least=96, lower_better=True, weights=_pyiqa("niqe_modelparameters.mat")),
    Metric("niqe_matlab", "niqe_matlab", False, least=96, lower_better=True, weights=_pyiqa("niqe_matlab_params.mat")),
    Metric(
        "niqe_fitted", "niqe", False, least=512, lower_better=True, weights=(of_fit,), weights_option="pretrained_model_path",
    ),  # few blocks make its covariance unreliable
    Metric("piqe", "piqe", False, least=8, lower_better=True),
    Metric("liqe", "liqe", False, least=224, weights=(partial(of_clip, "ViT-B/32"), *_pyiqa("liqe_koniq.pt"))),
    Metric("liqe_mix", "liqe_mix", False, least=224, weights=(partial(of_clip, "ViT-B/32"), *_pyiqa("liqe_mix.pt"))),
    Metric("musiq", "musiq", False, weights=_pyiqa("musiq_koniq_ckpt-e95806b9.pth")),
    Metric("clipiqa", "clipiqa", False, least=32, weights=(partial(of_clip, "RN50"),)),
    Metric(
        "clipiqa+", "clipiqa+", False, least=32,
        weights=(partial(of_clip, "RN50"), *_pyiqa("CLIP-IQA+_learned_prompts-603f3273.pth")),
    ),
    Metric(
        "clipiqa+_vitL14_512", "clipiqa+_vitL14_512", False, least=14,
        weights=(partial(of_clip, "ViT-L/14"), *_pyiqa("CLIPIQA+_ViTL14_512-e66488f2.pth")),
    ),
    Metric("maniqa", "maniqa", False, weights=(partial(of_timm, _VIT), *_pyiqa("ckpt_koniq10k.pt"))),
    Metric("maniqa-pipal", "maniqa-pipal", False, weights=(partial(of_timm, _VIT), *_pyiqa("MANIQA_PIPAL-ae6d356b.pth"))),
    Metric("fid", "fid", True, lower_better=True, of_sets=True, weights=_pyiqa("pt_inception-2015-12-05-6726825d.pth")),
    Metric("kid", "fid", True, lower_better=True, of_sets=True, weights=_pyiqa("pt_inception-2015-12-05-6726825d.pth")),
)  # fmt: skip

METRICS = {metric.name: metric for metric in _KNOWN}
"""Metrics by name, without variants: a full-reference one takes the suffix `GT_MEAN`, psnr and ssim also `ALIGNED`."""

DEFAULT_METRICS = (
    "psnr", "psnry", "psnr_ycbcr", "ssim", "ssimc", "ms_ssim", "gmsd", "fsim", "vif", "nlpd", "lpips", "dists",
    "piqe", "niqe", "niqe_fitted", "liqe", "musiq", "clipiqa", "clipiqa+_vitL14_512", "maniqa-pipal",
)  # fmt: skip
"""Metrics that are scored by default."""


def metrics_named(names: Iterable[str]) -> list[Metric]:
    """Return the metrics of these names, each once.

    Raises:
        ValueError: A name is unknown.
    """
    return [_metric(name) for name in dict.fromkeys(names)]


def _metric(name: str) -> Metric:
    if name in METRICS:
        return METRICS[name]
    if name in (f"psnr{ALIGNED}", f"ssim{ALIGNED}"):
        return Metric(name, "", True, least=11)
    known = METRICS.get(name.removesuffix(GT_MEAN))
    if known is None or not name.endswith(GT_MEAN) or not known.reference or known.of_sets:
        raise ValueError(
            f"metric {name!r} is not known; known are {', '.join(METRICS)}, those with a reference also with {GT_MEAN} after their names "
            f"(brightness set to the truth's), and psnr{ALIGNED} and ssim{ALIGNED} (RealBlur's alignment)"
        )
    return replace(known, name=name)
