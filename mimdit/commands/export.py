"""``mimdit export``: from a training checkpoint to a folder of weights for use."""

from __future__ import annotations

from mimdit.commands.checkpoints import read_checkpoint


def export(checkpoint: str, folder: str) -> None:
    """Write a checkpoint's weights as a folder that from_pretrained reads.

    A backbone becomes a diffusers folder in bf16, a restorer a folder with the averaged weights of its conditioner (and of its backbone,
    where that was trained). Of a backbone with adapters these alone are written, in fp32, as diffusers writes them.

    Args:
        checkpoint: A single-file checkpoint of ``mimdit fit``.
        folder: The folder to write.
    """
    module, name = read_checkpoint(checkpoint)
    module.save_pretrained(folder)
    print(f"wrote {folder} ({name})")
