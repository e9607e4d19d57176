"""Suites: several test sets under one root, as all-in-one restoration papers lay them out."""

from dataclasses import dataclass
from pathlib import Path

from datamodules.test_sets.base import Contents, TestSet
from datamodules.test_sets.files import SIGMAS, noisy_images, pair_folders

HAZE = (r"_[^/]*$", "")
"""``0025_0.8_0.1`` belongs to the truth ``0025``."""

RAIN = (r"rain-(\d+)$", r"norain-\1")
"""``rain-012`` belongs to the truth ``norain-012``, where names differ."""


@dataclass(frozen=True)
class SuitePart:
    """One test set of a suite.

    Attributes:
        lq: Folder of the degraded images below the root.
        gt: Folder of the truths; None for clean images that are made noisy when they are read.
        degradation: Degradation of the images.
        truth_name: Regular expression and replacement that turn an image's name into its truth's, where they differ.
    """

    lq: str
    gt: str | None
    degradation: str
    truth_name: tuple[str, str] | None = None


class _Suite(TestSet):
    """Test sets of a suite that are present; each is one group, a noisy one a group for each sigma.

    Args:
        root: The folder that holds the sets, or one whose ``test`` does.
        sets: Sets to take; null is all that are present.
        sigmas: Standard deviations of the added noise, on 0..255.
        **options: As in `TestSet`.
    """

    SETS: dict[str, SuitePart]

    def __init__(self, root: str, *, sets: list[str] | None = None, sigmas: list[int] | None = None, **options) -> None:
        super().__init__(root, **options)
        self.sets, self.sigmas = sets, tuple(sigmas or SIGMAS)

    def find(self) -> Contents:
        """List the images of the chosen sets.

        Raises:
            ValueError: A chosen set is missing, or no set is present.
        """
        present = {name: home for name in self.SETS if (home := self._home(self.SETS[name])) is not None}
        chosen = list(present) if self.sets is None else self.sets
        if not chosen or not set(chosen) <= present.keys():
            lacking = ", ".join(f"{name} ({self.SETS[name].lq})" if name in self.SETS else name for name in chosen if name not in present)
            looked = ", ".join(each.lq for each in self.SETS.values())
            wrong = f"lacks {lacking}" if lacking else "holds none of its sets"
            raise ValueError(f"{self.root} {wrong}; {type(self).__name__} looks there, and in test/ there, for {looked}")
        contents = Contents()
        for name in chosen:
            part, home = self.SETS[name], present[name]
            if part.gt is None:
                contents += noisy_images(name, home / part.lq, self.sigmas)
            else:
                contents += pair_folders(name, home / part.lq, home / part.gt, (part.degradation,), part.truth_name)
        return contents

    def _home(self, part: SuitePart) -> Path | None:
        wanted = [folder for folder in (part.lq, part.gt) if folder is not None]
        return next((home for home in (self.root, self.root / "test") if all((home / folder).is_dir() for folder in wanted)), None)


class PromptIR(_Suite):
    """The test sets of AirNet, PromptIR and AdaIR (three and five tasks), cut centrally to multiples of 16 as they do.

    Args:
        root: The folder that holds ``derain``, ``dehaze``, ``denoise``, or one whose ``test`` does.
        **options: ``sets``, ``sigmas`` (of the noise added to the denoising sets) and those of `TestSet`.
    """

    CROP = 16
    SETS = {
        "Rain100L": SuitePart("derain/Rain100L/input", "derain/Rain100L/target", "rain", RAIN),
        "SOTS": SuitePart("dehaze/input", "dehaze/target", "haze", HAZE),
        "CBSD68": SuitePart("denoise/bsd68", None, "noise"),
        "Urban100": SuitePart("denoise/urban100", None, "noise"),
        "Kodak24": SuitePart("denoise/kodak24", None, "noise"),
        "GoPro": SuitePart("deblur/gopro/input", "deblur/gopro/target", "blur"),
        "LOL": SuitePart("enhance/lol/input", "enhance/lol/target", "lowlight"),
    }

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)


class MoCEIR(_Suite):
    """The test sets of MoCE-IR; its ``cdd11/test`` is a `CDD11`.

    Args:
        root: The folder that holds ``deraining``, ``dehazing`` and so on.
        **options: ``sets``, ``sigmas`` (of the noise added to the denoising sets) and those of `TestSet`.
    """

    SETS = {
        "Rain100L": SuitePart("deraining/Rain100L/rainy", "deraining/Rain100L/gt", "rain", RAIN),
        "SOTS": SuitePart("dehazing/SOTS/outdoor/hazy", "dehazing/SOTS/outdoor/gt", "haze", HAZE),
        "CBSD68": SuitePart("denoising/cBSD68/original_png", None, "noise"),
        "GoPro": SuitePart("deblurring/GoPro/test/input", "deblurring/GoPro/test/target", "blur"),
        "LOL": SuitePart("llie/LOLv1/Test/input", "llie/LOLv1/Test/target", "lowlight"),
    }

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)


class InstructIR(_Suite):
    """InstructIR's ``test-data``, whose noisy images are files.

    Args:
        root: The folder ``test-data``.
        **options: ``sets`` and those of `TestSet`.
    """

    SETS = {
        **{
            f"{name} sigma{sigma}": SuitePart(f"denoising_testsets/{name}_{sigma}", f"denoising_testsets/{name}", "noise")
            for name in ("CBSD68", "urban100", "Kodak24")
            for sigma in SIGMAS
        },
        "Rain100L": SuitePart("Rain100L/input", "Rain100L/target", "rain", RAIN),
        "SOTS": SuitePart("SOTS/IN", "SOTS/GT", "haze", HAZE),
        "LOL": SuitePart("LOL/low", "LOL/high", "lowlight"),
        "GoPro": SuitePart("GoPro/input", "GoPro/target", "blur"),
    }

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)
