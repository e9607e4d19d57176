"""``mimdit export``: from a training checkpoint to a folder of weights for use."""

from __future__ import annotations

from mimdit.commands.trained import load_trained
from mimdit.restorer import Restorer


def export(checkpoint: str, folder: str, average: bool = True) -> None:
    """Write a checkpoint's weights as a folder that from_pretrained reads.

    A backbone becomes a diffusers folder in bf16, a restorer a folder with the averaged weights of its conditioner (and of its backbone,
    where that was trained). Of a backbone with adapters these alone are written, in fp32, as diffusers writes them.

    Args:
        checkpoint: A checkpoint of ``mimdit fit``, a single file or a sharded folder.
        folder: The folder to write.
        average: Whether a restorer's averaged weights are written; false for those of the last step.
    """
    module, name = load_trained(checkpoint)
    if isinstance(module, Restorer):
        module.save_pretrained(folder, average=average)
    else:
        module.save_pretrained(folder)
    print(f"wrote {folder} ({name})")
