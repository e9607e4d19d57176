"""A restorer that returns its input, for tests of the code around it."""

import dataclasses

import torch

from mimdit import cli
from mimdit.commands import restore as command
from mimdit.restorer.sampling import SamplingSettings


class Identity:
    """Stands for a `Restorer` in loops over files."""

    device = torch.device("cpu")

    def sampling_settings(self, **overrides: object) -> SamplingSettings:
        """Return settings with ``overrides``."""
        own = SamplingSettings(steps=1, start="degraded", sigma_start=1.0, sampler="euler", guidance=1.0, seed=0)
        return dataclasses.replace(own, **{name: value for name, value in overrides.items() if value is not None})

    def restore(self, images: torch.Tensor, settings: object = None, **options: object) -> torch.Tensor:
        """Return ``images``."""
        assert images.dtype == torch.float32 and images.shape[:2] == (1, 3) and 0 <= images.min() <= images.max() <= 1
        return images.clone()

    def to(self, device: object) -> "Identity":
        """Return itself, on any device."""
        return self


def use(restorer: Identity, monkeypatch, folder) -> None:
    """Let ``mimdit restore`` load ``restorer``, in a folder of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(command, "load_restorer", lambda checkpoint: restorer)


def run(*args: object) -> int | str | None:
    """Run ``mimdit restore`` and return the exit code."""
    try:
        cli.main(["restore", *map(str, args)])
    except SystemExit as left:
        return left.code
    return 0
