"""Test sets that come together under one root, as all-in-one restoration papers lay them out."""

from dataclasses import dataclass
from pathlib import Path

from datamodules.test_sets.base import Benchmark, Contents
from datamodules.test_sets.files import pair_folders
from datamodules.test_sets.noise import SIGMAS, noisy_images

HAZE = (r"_[^/]*$", "")
"""``0025_0.8_0.1`` is of the truth ``0025``."""

RAIN = (r"rain-(\d+)$", r"norain-\1")
"""``rain-012`` is of the truth ``norain-012``, where names differ."""


@dataclass(frozen=True)
class TestSet:
    """One set of a suite: its folders below the root, ``gt`` None for clean images that are made noisy on the way."""

    __test__ = False  # pytest would take it for a test

    lq: str
    gt: str | None
    degradation: str
    truth_name: tuple[str, str] | None = None


class _Suite(Benchmark):
    """Those of its sets that are there; each is a group, a noisy one a group for each sigma.

    Args:
        root: The folder that holds the sets, or one whose ``test`` does.
        sets: Which sets to take; null is all that are there.
        sigmas: Standard deviations of the noise that is added, on 0..255.
        **options: As in `Benchmark`.
    """

    SETS: dict[str, TestSet]

    def __init__(self, root: str, *, sets: list[str] | None = None, sigmas: list[int] | None = None, **options) -> None:
        super().__init__(root, **options)
        self.sets, self.sigmas = sets, tuple(sigmas or SIGMAS)

    def find(self) -> Contents:
        """List the sets."""
        present = {name: home for name in self.SETS if (home := self._home(self.SETS[name])) is not None}
        chosen = list(present) if self.sets is None else self.sets
        if not chosen or not set(chosen) <= present.keys():
            lacking = ", ".join(f"{name} ({self.SETS[name].lq})" if name in self.SETS else name for name in chosen if name not in present)
            looked = ", ".join(each.lq for each in self.SETS.values())
            wrong = f"lacks {lacking}" if lacking else "holds none of its sets"
            raise ValueError(f"{self.root} {wrong}; {type(self).__name__} looks there, and in test/ there, for {looked}")
        contents = Contents()
        for name in chosen:
            test, home = self.SETS[name], present[name]
            if test.gt is None:
                contents += noisy_images(name, home / test.lq, self.sigmas)
            else:
                contents += pair_folders(name, home / test.lq, home / test.gt, (test.degradation,), test.truth_name)
        return contents

    def _home(self, test: TestSet) -> Path | None:
        wanted = [folder for folder in (test.lq, test.gt) if folder is not None]
        return next((home for home in (self.root, self.root / "test") if all((home / folder).is_dir() for folder in wanted)), None)


class PromptIR(_Suite):
    """The test sets of AirNet, PromptIR and AdaIR (three and five tasks), cut centrally to multiples of 16 as they do.

    Args:
        root: The folder that holds ``derain``, ``dehaze``, ``denoise``, or one whose ``test`` does.
        **options: ``sets``, ``sigmas`` (of the noise added to the denoising sets) and those of `Benchmark`.
    """

    CROP = 16
    SETS = {
        "Rain100L": TestSet("derain/Rain100L/input", "derain/Rain100L/target", "rain", RAIN),
        "SOTS": TestSet("dehaze/input", "dehaze/target", "haze", HAZE),
        "CBSD68": TestSet("denoise/bsd68", None, "noise"),
        "Urban100": TestSet("denoise/urban100", None, "noise"),
        "Kodak24": TestSet("denoise/kodak24", None, "noise"),
        "GoPro": TestSet("deblur/gopro/input", "deblur/gopro/target", "blur"),
        "LOL": TestSet("enhance/lol/input", "enhance/lol/target", "lowlight"),
    }

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)


class MoCEIR(_Suite):
    """The test sets of MoCE-IR; its ``cdd11/test`` is a `CDD11`.

    Args:
        root: The folder that holds ``deraining``, ``dehazing`` and so on.
        **options: ``sets``, ``sigmas`` (of the noise added to the denoising sets) and those of `Benchmark`.
    """

    SETS = {
        "Rain100L": TestSet("deraining/Rain100L/rainy", "deraining/Rain100L/gt", "rain", RAIN),
        "SOTS": TestSet("dehazing/SOTS/outdoor/hazy", "dehazing/SOTS/outdoor/gt", "haze", HAZE),
        "CBSD68": TestSet("denoising/cBSD68/original_png", None, "noise"),
        "GoPro": TestSet("deblurring/GoPro/test/input", "deblurring/GoPro/test/target", "blur"),
        "LOL": TestSet("llie/LOLv1/Test/input", "llie/LOLv1/Test/target", "lowlight"),
    }

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)


class InstructIR(_Suite):
    """InstructIR's ``test-data``, whose noisy images are files.

    Args:
        root: The folder ``test-data``.
        **options: ``sets`` and those of `Benchmark`.
    """

    SETS = {
        **{
            f"{name} sigma{sigma}": TestSet(f"denoising_testsets/{name}_{sigma}", f"denoising_testsets/{name}", "noise")
            for name in ("CBSD68", "urban100", "Kodak24")
            for sigma in SIGMAS
        },
        "Rain100L": TestSet("Rain100L/input", "Rain100L/target", "rain", RAIN),
        "SOTS": TestSet("SOTS/IN", "SOTS/GT", "haze", HAZE),
        "LOL": TestSet("LOL/low", "LOL/high", "lowlight"),
        "GoPro": TestSet("GoPro/input", "GoPro/target", "blur"),
    }

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)
