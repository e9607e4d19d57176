"""``mimdit export``: from a training checkpoint to a folder of weights for use."""

from __future__ import annotations

from pathlib import Path

import torch

from mimdit.backbone.dit import DiTBackbone
from mimdit.restorer import Restorer

MODULES = {"mimdit.DiTBackbone": DiTBackbone, "mimdit.Restorer": Restorer}


def export(checkpoint: str, folder: str) -> None:
    """Write a checkpoint's weights as a folder that from_pretrained reads.

    A backbone becomes a diffusers folder in bf16, a restorer a folder with the averaged weights of its conditioner (and of its backbone,
    where that was trained). Of a backbone with adapters these alone are written, in fp32, as diffusers writes them.

    Args:
        checkpoint: A single-file checkpoint of ``mimdit fit``.
        folder: The folder to write.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise ValueError(f"{checkpoint} is not a checkpoint file; give a .ckpt that mimdit fit wrote")
    hparams = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("hyper_parameters", {})
    name = hparams.get("_class_path")
    kinds = {f"{kind.__module__}.{kind.__name__}": kind for kind in MODULES.values()} | MODULES
    if name not in kinds:
        raise ValueError(f"{checkpoint} holds {name or 'no known module'}; a checkpoint of {' or '.join(MODULES)} can be exported")
    module = kinds[name].load_from_checkpoint(path, map_location="cpu", weights_only=True)
    module.save_pretrained(folder)
    print(f"wrote {folder} ({name})")
