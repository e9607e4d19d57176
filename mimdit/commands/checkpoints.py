"""Reading what was trained, whichever way it was kept."""

from __future__ import annotations

from pathlib import Path

import torch

from mimdit.backbone.dit import DiTBackbone
from mimdit.restorer import Restorer

MODULES = {"mimdit.DiTBackbone": DiTBackbone, "mimdit.Restorer": Restorer}


def read_checkpoint(checkpoint: str) -> tuple[DiTBackbone | Restorer, str]:
    """The module in a single-file checkpoint of ``mimdit fit``, on the CPU, and its name; ValueError where it holds none of `MODULES`."""
    path = Path(checkpoint)
    if not path.is_file():
        raise ValueError(f"{checkpoint} is not a checkpoint file; give a .ckpt that mimdit fit wrote")
    hparams = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("hyper_parameters", {})
    name = hparams.get("_class_path")
    kinds = {f"{kind.__module__}.{kind.__name__}": kind for kind in MODULES.values()} | MODULES
    if name not in kinds:
        raise ValueError(f"{checkpoint} holds {name or 'no known module'}; a checkpoint of {' or '.join(MODULES)} can be read")
    return kinds[name].load_from_checkpoint(path, map_location="cpu", weights_only=True), name


def load_restorer(checkpoint: str | None) -> Restorer:
    """A restorer for use, with its averaged weights: from a folder, from a .ckpt, or the default that comes with the package."""
    if checkpoint is None:
        return Restorer.from_pretrained()
    if Path(checkpoint).is_dir():
        return Restorer.from_pretrained(checkpoint)
    module, name = read_checkpoint(checkpoint)
    if not isinstance(module, Restorer):
        raise ValueError(f"{checkpoint} holds a {name}; to restore, give a checkpoint of mimdit.Restorer, or leave it out for the default")
    module.ema.swap()
    return module.eval()
