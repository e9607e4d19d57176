"""Load trained modules from checkpoints, sharded or not, and from exported folders."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from mimdit.backbone.dit import DiTBackbone
from mimdit.distributed.checkpoint_files import read_checkpoint, read_hyper_parameters
from mimdit.distributed.sharded_checkpoint import INDEX
from mimdit.restorer.restorer import Restorer
from mimdit.weights import NAMED

MODULES = {"mimdit.DiTBackbone": DiTBackbone, "mimdit.Restorer": Restorer}
_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


def load_trained(checkpoint: str) -> tuple[DiTBackbone | Restorer, str]:
    """Return the module in a checkpoint of ``mimdit fit``, a single file or a sharded folder, on the CPU, and its name.

    Raises:
        ValueError: The checkpoint does not exist, holds none of `MODULES`, or names a builder other than Lightning's.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise ValueError(f"{checkpoint} does not exist; give a .ckpt that mimdit fit wrote, or a folder of mimdit export")
    hparams = read_hyper_parameters(path)
    name = hparams.get("_class_path")
    kinds = {f"{kind.__module__}.{kind.__name__}": kind for kind in MODULES.values()} | MODULES
    kinds["mimdit.restorer.Restorer"] = Restorer  # its name in earlier checkpoints
    if name not in kinds:
        raise ValueError(f"{checkpoint} holds {name or 'no known module'}; a checkpoint of {' or '.join(MODULES)} can be read")
    if hparams.get("_instantiator", _INSTANTIATOR) != _INSTANTIATOR:  # Lightning would import and call any name
        raise ValueError(f"{checkpoint} names {hparams['_instantiator']} as its builder, not {_INSTANTIATOR}; give one of mimdit fit")
    source: Path | io.BytesIO = path
    if path.is_dir():
        # Assembled in memory, without the optimizer's states.
        held = read_checkpoint(path)
        held.pop("optimizer_states", None)
        source = io.BytesIO()
        torch.save(held, source)
        source.seek(0)
    return kinds[name].load_from_checkpoint(source, map_location="cpu", weights_only=True), name


def load_restorer(checkpoint: str | None) -> Restorer:
    """Return a restorer for inference, with its averaged weights: from a folder, a checkpoint, or one that comes with the package.

    ``embedded``, the same as None, and ``paper`` are those that come with the package.

    Raises:
        ValueError: ``checkpoint`` does not exist, cannot be read, or holds a module other than a restorer.
    """
    if checkpoint is None or checkpoint in NAMED:
        return Restorer.from_pretrained(checkpoint or "embedded")
    path = Path(checkpoint)
    if not path.exists():
        named = ", ".join(NAMED)
        raise ValueError(
            f"checkpoint={checkpoint} does not exist; give a .ckpt of mimdit fit, a folder of mimdit export, or one of {named}"
        )
    if path.is_dir() and path.suffix != ".ckpt" and not (path / INDEX).exists():
        return Restorer.from_pretrained(checkpoint)
    module, name = load_trained(checkpoint)
    if not isinstance(module, Restorer):
        raise ValueError(f"{checkpoint} holds a {name}; to restore, give a checkpoint of mimdit.Restorer, or leave it out for the default")
    module.ema.adopt()
    return module.eval()
