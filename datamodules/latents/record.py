"""What made a folder's latents: the entry of its index that a reader checks."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from datamodules.shards import ShardError, ShardIndex

DTYPES = ("float16", "bfloat16", "float32")
"""Float types that latents are stored in. A mean is a few units large, where fp16 is eight times as fine as bf16."""

COMPUTE = ("float32", "bfloat16")


@dataclass(frozen=True)
class LatentRecord:
    """How latents are made; the same record and the same images give, on the same device and versions, the same bytes.

    Args:
        codec: The autoencoder's ``source``, ``revision`` and ``sha256`` (`mimdit.backbone.identity.identity`).
        channels: Latent channels C.
        downscale: Pixels per latent pixel.
        crop: Side of the crops in pixels.
        crops: Crops of each image.
        flip: Whether crops are turned and mirrored at random (8 ways).
        seed: Seed of the crops; each is drawn by the seed, its image's key and its number.
        dtype: Float type they are stored in.
        compute: Float type of the autoencoder's work: ``float32``, or ``bfloat16`` by autocast.
        batch_size: Crops that go through the autoencoder at once; may change their last bits.
        images: Whether the crops' images are stored beside the latents.

    Raises:
        ValueError: A value is out of its range.
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
            raise ValueError(f"crop is {self.crop} pixels; it must be a multiple of the {self.downscale} that one latent pixel stands for.")
        for name, allowed in (("dtype", DTYPES), ("compute", COMPUTE)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one stored tensor."""
        side = self.crop // self.downscale
        return 2 * self.channels, side, side

    def to_dict(self) -> dict[str, Any]:
        """The record by names, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, index: ShardIndex) -> "LatentRecord | None":
        """The record of an index; None where its shards hold images alone.

        Raises:
            ShardError: It is there and not valid.
        """
        recorded = index.options.get("latents")
        if recorded is None:
            return None
        try:
            return cls(**recorded)
        except (TypeError, ValueError) as error:
            raise ShardError(f"The index of {index.folder} says nothing valid about its latents ({error}). Encode them anew.") from error

    def __str__(self) -> str:
        flipped = ", flipped at random" if self.flip else ""
        return f"{self.crops} crops an image of {self.crop} pixels{flipped}, {self.dtype}, by {self.codec['source']}"
