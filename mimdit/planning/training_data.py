"""Training data of a plan: its kind and size, and the cores and the rate that a GPU's images need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mimdit.planning.assumptions import Assumption
from mimdit.planning.run_config import RunConfig
from mimdit.planning.step_time import Range


@dataclass(frozen=True)
class TrainingData:
    """Training data.

    Attributes:
        latents: If true, samples are cached latents instead of images.
        samples: Samples of one pass; None where they are not known.
        latent_bytes: Bytes of a sample of latents.
    """

    latents: bool
    samples: int | None
    latent_bytes: int

    def sample_bytes(self, run: RunConfig, assumed: Mapping[str, Assumption]) -> float:
        """Return the bytes that are read for a sample."""
        return self.latent_bytes if self.latents else assumed["pair"].best * 1e6 / run.crops

    def core_seconds(self, run: RunConfig, assumed: Mapping[str, Assumption]) -> Range:
        """Return the seconds of a core for a sample."""
        if self.latents:
            return assumed["latent_sample"].best * 1e-3, assumed["latent_sample"].worst * 1e-3
        decode, crop = assumed["decode"], assumed["crop_sample"]
        return (decode.best / run.crops + crop.best) * 1e-3, (decode.worst / run.crops + crop.worst) * 1e-3

    def step_seconds(self, run: RunConfig, assumed: Mapping[str, Assumption]) -> Range:
        """Return the seconds in which a rank's data processes make the images of a step."""
        images, workers = run.batch_size * run.window, max(1, run.workers)
        best, worst = self.core_seconds(run, assumed)
        return images * best / workers, images * worst / workers
