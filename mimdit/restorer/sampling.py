"""SamplingSettings: complete description of how images are restored, made once and passed on whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mimdit.core.batch import ATOMS
from mimdit.flow import check_sampling, num_evaluations
from mimdit.restorer.caution import check_caution
from mimdit.restorer.color import check_color
from mimdit.restorer.steering import check_factors

PROMPTINGS = ("none", "detected", "given")


@dataclass(frozen=True)
class SamplingSettings:
    """Settings of a restoration, checked when they are made. ``Restorer.sampling_settings(steps=4)`` fills in the restorer's own.

    Args:
        steps: Sampler steps, at least 0. 0 does not run the DiT: it returns the degraded image for ``start: degraded``, otherwise the
            estimate, or the degraded image without an estimate head.
        start: Where sampling begins: ``noise``, ``degraded`` or ``estimate``.
        sigma_start: Noise level to start from, in (0, 1]; not used with ``start: noise``.
        sampler: ``euler``, one evaluation of the DiT per step, or ``heun``, two except in the last step.
        guidance: Strength of the prompt, at least 0; any value but 1 evaluates the DiT twice as often.
        seed: Seed of the noise. The noise depends only on seed and size: it is drawn for the whole image, even if that is restored in
            pieces, and is the same for all images of a batch.
        color: Color matching after sampling (`mimdit.restorer.color`): ``none``, ``wavelet`` or ``adain``. The reference is the estimate,
            or without one the degraded image. For samplers whose colors drift; haze and darkness are colors too, so matching the degraded
            image brings them back.
        caution: Probability, in 0..1, from which a degradation is corrected in full; below, its share of the correction shrinks, to none at
            four fifths of it, and the largest share counts. For the tone only haze, rain and darkness count (`mimdit.restorer.caution`). 0
            corrects every image in full; other values need an identification head. A mapping such as ``{"noise": 0.5, "rain": 0.7}`` has
            one, above 0, for each degradation, and those without one do not count. Not used with ``only``, which scales the correction by
            probability itself. Not in the paper.
        tile: Process a batch of more than tile² pixels in total in pieces of about that area; only the current piece is on the restorer's
            device. Equal to one piece up to rounding. None for one piece.
        steer: Factors, at least 0, of expert groups and degradations by name, such as ``{"haze": 0, "channel": 2}``; see
            `mimdit.restorer.steering.gains`.
        only: Degradations to remove, of `mimdit.core.batch.ATOMS`; the others stay (`mimdit.restorer.selective`). None for all. Needs an
            identification head. Not in the paper.
        prompting: Text that the DiT gets: ``none``, the backbone's prompt; ``detected``, the mean of the degradations' cached texts, by
            their probabilities; ``given``, the cached text nearest to ``prompt``. The last two need texts by degradation (``mimdit prompts
            encode --by_atom``). Not in the paper.
        prompt: Text for ``given``.

    Raises:
        ValueError: A value is unknown or out of range.
    """

    steps: int
    start: str
    sigma_start: float
    sampler: str
    guidance: float
    seed: int
    color: str = "none"
    caution: float | Mapping[str, float] = 0.0
    tile: int | None = None
    steer: Mapping[str, float] | None = None
    only: Sequence[str] | None = None
    prompting: str = "none"
    prompt: str | None = None

    def __post_init__(self) -> None:
        check_sampling(
            steps=self.steps, start=self.start, sigma_start=self.sigma_start, sampler=self.sampler, guidance=self.guidance
        )  # fmt: skip
        check_color(self.color)
        check_caution(self.caution)
        if self.tile is not None and self.tile < 1:
            raise ValueError(f"tile={self.tile} must be at least 1; use null for one piece")
        check_factors(self.steer or {})
        check_only(self.only)
        if self.prompting not in PROMPTINGS:
            raise ValueError(f"prompting {self.prompting!r} is unknown; choose one of {', '.join(PROMPTINGS)}")
        if self.prompting == "given" and self.prompt is None:
            raise ValueError("prompting=given needs a prompt; set prompt")
        if self.prompting != "given" and self.prompt is not None:
            raise ValueError(f"prompt={self.prompt!r} needs prompting=given, not {self.prompting}")

    def changed(self, **overrides: Any) -> SamplingSettings:
        """Return the settings with ``overrides``, whose None values change nothing; ``prompt`` alone implies ``prompting: given``.

        Raises:
            ValueError: A value is unknown or out of range.
        """
        settings = self
        if overrides.get("prompt") is not None and overrides.get("prompting") is None:
            overrides["prompting"] = "given"
        elif overrides.get("prompting") not in (None, "given") and overrides.get("prompt") is None:
            settings = replace(settings, prompting="none", prompt=None)  # the prompt of the settings goes with their prompting
        return replace(settings, **{name: value for name, value in overrides.items() if value is not None})

    def area(self, images: torch.Tensor) -> int | None:
        """Return the area of a piece in pixels if ``images [B, 3, H, W]`` must be processed in pieces, else None."""
        return self.tile**2 if self.tile is not None and images[:, 0].numel() > self.tile**2 else None

    @property
    def num_evaluations(self) -> int:
        """Number of the sampler's velocity evaluations, not counting guidance."""
        return num_evaluations(self.steps, self.sampler)


def check_only(only: Sequence[str] | None) -> None:
    """Check the names of the degradations to remove.

    Raises:
        ValueError: One is unknown, or there is none.
    """
    if only is None:
        return
    known = ", ".join(ATOMS)
    if isinstance(only, str):
        raise ValueError(f"only={only!r} is one text; give a list of degradations, such as [{only.split(',')[0]}], from {known}")
    if not only:
        raise ValueError(f"only is empty; name at least one of {known}, or leave it out to remove all")
    if unknown := [atom for atom in only if atom not in ATOMS]:
        raise ValueError(f"only {', '.join(map(repr, unknown))}: there is no such degradation; choose from {known}")


def parse_only(text: str) -> tuple[str, ...]:
    """Parse ``haze,noise``."""
    return tuple(part.strip() for part in text.split(","))
