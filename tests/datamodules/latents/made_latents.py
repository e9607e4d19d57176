"""Folders of latents by a tiny autoencoder, made by the command."""

from pathlib import Path

import torch

from datamodules.shards import RawSample, ShardIndex, read_shard
from datamodules.shards.latents import unpack_latents
from mimdit.commands.latents import latents
from tests.datamodules.made_shards import make_folder
from tests.tiny_checkpoints import tiny_vae

CROP = 16
SIZES = {"01Blur": [3, 2], "08Haze": [4]}
"""Samples of each shard of images; each of 24 x 20 pixels."""


def write_vae(folder: Path, seed: int = 0) -> str:
    """A tiny autoencoder's folder."""
    tiny_vae(seed).save_pretrained(folder)
    return str(folder)


def make_latents(tmp_path: Path, name: str = "latents", *, sizes: dict[str, list[int]] = SIZES, seed: int = 0, **options) -> ShardIndex:
    """Latents in ``tmp_path/name`` of made images in ``tmp_path/images``, which are written if they are not there."""
    if not (tmp_path / "images").exists():
        make_folder(tmp_path / "images", sizes)
    vae = write_vae(tmp_path / f"vae{seed}", seed)
    given = {"crop": CROP, "crops": 2, "batch_size": 3, "workers": 0, "device": "cpu", "vae": vae}
    latents(str(tmp_path / "images"), str(tmp_path / name), **given | options)
    return ShardIndex.load(tmp_path / name)


def stored(index: ShardIndex) -> dict[str, RawSample]:
    """Every sample of an index by its key."""
    return {sample.key: sample for shard in index.shards for sample in read_shard(index.path(shard), samples=shard.samples)}


def tensors(sample: RawSample) -> torch.Tensor:
    """``[2, 2C, h, w]``: of lq, then of gt."""
    return torch.stack(unpack_latents(sample.latents))


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
