"""``mimdit export``: from a training checkpoint to a folder of weights for use."""

from __future__ import annotations

import io
from pathlib import Path

import lightning as L
import torch

from mimdit.backbone.dit import DiTBackbone
from mimdit.distributed.checkpoint_files import read_checkpoint, read_hyper_parameters
from mimdit.restorer import Restorer

MODULES = {"mimdit.DiTBackbone": DiTBackbone, "mimdit.Restorer": Restorer}
_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


def export(checkpoint: str, folder: str, average: bool = True) -> None:
    """Write a checkpoint's weights as a folder that from_pretrained reads.

    A backbone becomes a diffusers folder in bf16, a restorer a folder with the averaged weights of its conditioner (and of its backbone,
    where that was trained). Of a backbone with adapters these alone are written, in fp32, as diffusers writes them.

    Args:
        checkpoint: A checkpoint of ``mimdit fit``, a single file or a sharded folder.
        folder: The folder to write.
        average: Whether a restorer's averaged weights are written; false for those of the last step.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise ValueError(f"{checkpoint} is not a checkpoint file; give a .ckpt that mimdit fit wrote")
    hparams = read_hyper_parameters(path)
    name = hparams.get("_class_path")
    kinds = {f"{kind.__module__}.{kind.__name__}": kind for kind in MODULES.values()} | MODULES
    if name not in kinds:
        raise ValueError(f"{checkpoint} holds {name or 'no known module'}; a checkpoint of {' or '.join(MODULES)} can be exported")
    if hparams.get("_instantiator", _INSTANTIATOR) != _INSTANTIATOR:  # Lightning would import and call whatever stands there
        raise ValueError(f"{checkpoint} wants to be built by {hparams['_instantiator']}, not by {_INSTANTIATOR}: it is refused")
    module = _load(kinds[name], path)
    if isinstance(module, Restorer):
        module.save_pretrained(folder, average=average)
    else:
        module.save_pretrained(folder)
    print(f"wrote {folder} ({name})")


def _load(kind: type[L.LightningModule], path: Path) -> L.LightningModule:
    """The module in a checkpoint; a sharded one is put together in memory, without what only training needs."""
    source: Path | io.BytesIO = path
    if path.is_dir():
        held = read_checkpoint(path)
        held.pop("optimizer_states", None)
        source = io.BytesIO()
        torch.save(held, source)
        source.seek(0)
    return kind.load_from_checkpoint(source, map_location="cpu", weights_only=True)
