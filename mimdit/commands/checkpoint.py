"""``mimdit checkpoint inspect|consolidate``: show the contents of a checkpoint, and merge a sharded one into a file."""

from __future__ import annotations

from pathlib import Path

import torch

from mimdit.core.files import replace_when_whole
from mimdit.distributed.checkpoint_files import newest_complete, read_checkpoint
from mimdit.distributed.sharded_checkpoint import INDEX, read_index


def inspect(checkpoint: str) -> None:
    """Print the contents of a checkpoint, a file or a sharded folder.

    Args:
        checkpoint: A checkpoint of ``mimdit fit``, or a folder of checkpoints; of these, the newest complete one is used.
    """
    path = _one(checkpoint)
    held = read_checkpoint(path)
    form = f"folder written by {read_index(path)['ranks']} ranks" if path.is_dir() else "single file"
    print(f"{path}: complete, {form}, step {held.get('global_step')}, epoch {held.get('epoch')}")
    print(f"model: {held.get('hyper_parameters', {}).get('_class_path', 'unknown')}")
    for name, part in held.get("frozen", {}).items():
        print(f"left out: {name}, {part['source']} (sha256 {part['sha256'][:12]}…)")
    for title, average in (("weights", False), ("averaged weights", True)):
        tensors = [tensor for name, tensor in held["state_dict"].items() if name.startswith("ema.") is average]
        print(f"{title}: {len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors):,} values")
    for number, state in enumerate(held.get("optimizer_states", [])):
        print(f"optimizer {number}: states of {len(state['state'])} parameters")


def consolidate(checkpoint: str, file: str) -> None:
    """Merge a sharded checkpoint into the single file that one process, or DDP, would have written.

    Args:
        checkpoint: A sharded checkpoint, or a folder of checkpoints; of these, the newest complete one is used.
        file: The file to write, such as ``whole.ckpt``.

    Raises:
        ValueError: file is a folder, or there is no complete checkpoint.
    """
    path, target = _one(checkpoint), Path(file)
    if target.is_dir():
        raise ValueError(f"{file} is a folder; give a file to write, such as {target / 'whole.ckpt'}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with replace_when_whole(target) as temporary:
        torch.save(read_checkpoint(path), temporary)
    print(f"wrote {target} from {path}")


def _one(checkpoint: str) -> Path:
    """Return the checkpoint itself, or the newest complete one in a folder of checkpoints."""
    path = Path(checkpoint)
    if path.is_dir() and path.suffix != ".ckpt" and not (path / INDEX).exists():
        newest = newest_complete(path)
        if newest is None:
            raise ValueError(f"{checkpoint} holds no complete checkpoint; give a .ckpt file or folder that mimdit fit wrote")
        return newest
    return path
