"""FoundIR's data: the groups of each training stage, and the published test set (arXiv 2412.01427)."""

import logging
from typing import Any

from datamodules.restoration import RestorationDataModule

ISOLATED = ("01Blur", "05Noise", "06JPEG", "08Haze", "10Rain", "11Raindrop", "14Lowlight")
"""Groups with a single degradation, on which FoundIR trains first."""

COMPOSED = {"18Lowlight_Blur_Noise": "02Blur_Noise", "19Lowlight_Blur_JPEG": "03Blur_JPEG", "20Lowlight_Noise_JPEG": "07Noise_JPEG"}
"""Test groups without training archives, and the groups whose clean images they are composed from. Not in the paper."""

TEST_PAIRS = {
    "01Blur": 150, "02Blur_Noise": 50, "03Blur_JPEG": 50, "04Blur_Noise_JPEG": 50, "05Noise": 100, "06JPEG": 50, "07Noise_JPEG": 50,
    "08Haze": 200, "09Lowlight_Haze": 100, "10Rain": 100, "11Raindrop": 100, "12NightRain": 50, "13Rain_Haze": 50, "14Lowlight": 50,
    "15Lowlight_Blur": 100, "16Lowlight_Noise": 50, "17Lowlight_JPEG": 50, "18Lowlight_Blur_Noise": 50, "19Lowlight_Blur_JPEG": 50,
    "20Lowlight_Noise_JPEG": 50,
}  # fmt: skip
"""Pairs of each group of the published test set, 1,500 in all."""

_log = logging.getLogger(__name__)


class FoundIRDataModule(RestorationDataModule):
    """`RestorationDataModule` over the shards of ``mimdit shards foundir``, with FoundIR's stages and its test set.

    Args:
        train: Training shards, or null.
        stage: ``isolated`` trains on the seven groups with a single degradation, ``all`` on every group. A run resumed with the other
            stage continues the orders of the groups.
        compose: If true, stage ``all`` also trains on the three test groups without training archives, composed from clean images.
        **options: As in `RestorationDataModule`; ``groups`` and ``composed`` follow from the stage unless they are given.

    Raises:
        ValueError: The stage is unknown, or an option is out of range.
    """

    def __init__(self, train: str | list[str] | None = None, *, stage: str = "all", compose: bool = True, **options: Any) -> None:
        if stage not in ("isolated", "all"):
            raise ValueError(f"data.stage is {stage!r}; choose isolated or all.")
        if stage == "isolated" and options.get("groups") is None and options.get("weights") is None:
            options["groups"] = list(ISOLATED)
        if stage == "all" and compose and options.get("composed") is None:
            options["composed"] = dict(COMPOSED)
        super().__init__(train, **options)

    def setup(self, stage: str) -> None:
        """Set up as in `RestorationDataModule`; warn if the test set differs from the published one.

        Figures on another test set are not comparable with published ones.
        """
        super().setup(stage)
        if stage == "test" and self._rank == 0 and (difference := missing_test_pairs(self._pairs("test").groups)):
            _log.warning(
                "The test set is not FoundIR's of 1,500 pairs; its figures are not comparable with published ones: %s.", difference
            )


def missing_test_pairs(groups: dict[str, int]) -> str:
    """Describe how the pairs of each group differ from the published test set; empty if they do not."""
    names = sorted({*groups, *TEST_PAIRS})
    return ", ".join(
        f"{name} {groups.get(name, 0)} of {TEST_PAIRS.get(name, 0)}" for name in names if groups.get(name, 0) != TEST_PAIRS.get(name, 0)
    )
