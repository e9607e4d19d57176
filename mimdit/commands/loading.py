"""Reading what was trained, whichever way it was kept."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from mimdit.backbone.dit import DiTBackbone
from mimdit.distributed.checkpoint_files import read_checkpoint, read_hyper_parameters
from mimdit.distributed.sharded_checkpoint import INDEX
from mimdit.restorer.restorer import Restorer

MODULES = {"mimdit.DiTBackbone": DiTBackbone, "mimdit.Restorer": Restorer}
_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


def load_trained(checkpoint: str) -> tuple[DiTBackbone | Restorer, str]:
    """The module in a checkpoint of ``mimdit fit``, a single file or a sharded folder, on the CPU, and its name.

    Raises:
        ValueError: There is no such checkpoint, it holds none of `MODULES`, or it wants to be built by something else than Lightning.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise ValueError(f"{checkpoint} is not a checkpoint file; give a .ckpt that mimdit fit wrote")
    hparams = read_hyper_parameters(path)
    name = hparams.get("_class_path")
    kinds = {f"{kind.__module__}.{kind.__name__}": kind for kind in MODULES.values()} | MODULES
    kinds["mimdit.restorer.Restorer"] = Restorer  # the name of its module in earlier checkpoints
    if name not in kinds:
        raise ValueError(f"{checkpoint} holds {name or 'no known module'}; a checkpoint of {' or '.join(MODULES)} can be read")
    if hparams.get("_instantiator", _INSTANTIATOR) != _INSTANTIATOR:  # Lightning would import and call whatever stands there
        raise ValueError(f"{checkpoint} wants to be built by {hparams['_instantiator']}, not by {_INSTANTIATOR}: it is refused")
    source: Path | io.BytesIO = path
    if path.is_dir():
        # Put together in memory, without what only training needs.
        held = read_checkpoint(path)
        held.pop("optimizer_states", None)
        source = io.BytesIO()
        torch.save(held, source)
        source.seek(0)
    return kinds[name].load_from_checkpoint(source, map_location="cpu", weights_only=True), name


def load_restorer(checkpoint: str | None) -> Restorer:
    """A restorer for use, with its averaged weights: of a folder, of a checkpoint, or the default that comes with the package."""
    if checkpoint is None:
        return Restorer.from_pretrained()
    path = Path(checkpoint)
    if path.is_dir() and path.suffix != ".ckpt" and not (path / INDEX).exists():
        return Restorer.from_pretrained(checkpoint)
    module, name = load_trained(checkpoint)
    if not isinstance(module, Restorer):
        raise ValueError(f"{checkpoint} holds a {name}; to restore, give a checkpoint of mimdit.Restorer, or leave it out for the default")
    module.ema.adopt()
    return module.eval()
