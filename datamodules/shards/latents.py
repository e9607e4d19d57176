"""Cached latents in shards: their record in the index, and their bytes in safetensors, which hold tensors and no code."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datamodules.shards.index import ShardError, ShardIndex

if TYPE_CHECKING:  # processes that write shards of images do not import torch, which takes seconds
    import torch

DTYPES = ("float16", "bfloat16", "float32")
"""Float types of stored latents. A mean is a few units large, where fp16 is eight times as fine as bf16."""

COMPUTE = ("float32", "bfloat16")


@dataclass(frozen=True)
class LatentRecord:
    """Record of how latents were made; equal records and images give equal bytes on the same device and versions.

    Args:
        codec: The autoencoder's ``source``, ``revision`` and ``sha256`` (`mimdit.backbone.identity.identity`).
        channels: Latent channels C.
        downscale: Pixels per latent pixel.
        crop: Side of the crops in pixels.
        crops: Crops of each image.
        flip: If true, crops are rotated by quarter turns and mirrored at random (8 ways).
        seed: Seed of the crops; each depends on the seed, the key of its image and its number.
        dtype: Float type of the stored latents.
        compute: Float type of the autoencoder: ``float32``, or ``bfloat16`` by autocast.
        batch_size: Crops encoded at once; may change their last bits.
        images: If true, the images of the crops are stored beside the latents.

    Raises:
        ValueError: A value is out of range.
    """

    codec: dict[str, str | None]
    channels: int
    downscale: int
    crop: int
    crops: int = 1
    flip: bool = True
    seed: int = 0
    dtype: str = "float16"
    compute: str = "float32"
    batch_size: int = 8
    images: bool = False

    def __post_init__(self) -> None:
        for name in ("crop", "crops", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.crop % self.downscale:
            raise ValueError(f"crop is {self.crop} pixels; it must be a multiple of {self.downscale}, the pixels per latent pixel.")
        for name, allowed in (("dtype", DTYPES), ("compute", COMPUTE)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one stored tensor."""
        side = self.crop // self.downscale
        return 2 * self.channels, side, side

    def to_dict(self) -> dict[str, Any]:
        """Return the record by name, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, index: ShardIndex) -> LatentRecord | None:
        """Return the record in an index; None if its shards hold only images.

        Raises:
            ShardError: The record is invalid.
        """
        recorded = index.options.get("latents")
        if recorded is None:
            return None
        try:
            return cls(**recorded)
        except (TypeError, ValueError) as error:
            raise ShardError(f"The record of the latents in the index of {index.folder} is invalid ({error}). Encode them anew.") from error

    def __str__(self) -> str:
        flipped = ", flipped at random" if self.flip else ""
        return f"{self.crops} crops per image of {self.crop} pixels{flipped}, {self.dtype}, by {self.codec['source']}"


def pack_latents(lq: torch.Tensor, gt: torch.Tensor) -> bytes:
    """Return the bytes of a crop's two posteriors ``[2C, h, w]``."""
    from safetensors.torch import save

    return save({"lq": lq.contiguous(), "gt": gt.contiguous()})


def unpack_latents(data: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``lq`` and ``gt`` ``[2C, h, w]`` from packed bytes.

    Raises:
        ValueError: The bytes are truncated or damaged, or hold anything but two float tensors of one shape ``[2C, h, w]``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(f"they are not whole safetensors ({error})") from error
    found = ", ".join(f"{name} {tensor.dtype} {list(tensor.shape)}" for name, tensor in sorted(tensors.items()))
    if tensors.keys() == {"lq", "gt"}:
        lq, gt = tensors["lq"], tensors["gt"]
        if (
            lq.shape == gt.shape
            and lq.dtype == gt.dtype
            and str(lq.dtype).removeprefix("torch.") in DTYPES
            and lq.ndim == 3
            and lq.shape[0] % 2 == 0
        ):
            return lq, gt
    raise ValueError(f"they hold {found or 'nothing'} in place of lq and gt of one shape [2C, h, w]")
