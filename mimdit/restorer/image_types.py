"""Images of the types that pipelines take, as arrays of pixels and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps

from mimdit.restorer.blending import brightness

_DEEP_GRAY = ("I;16", "I;16L", "I;16B", "I;16N")
_REFUSED = ("I", "F", "LAB", "HSV")
"""Pillow's modes whose values have another range or meaning, which a conversion would clip or take for RGB."""

ImageLike = Image.Image | np.ndarray | torch.Tensor


def as_list(image: ImageLike | list[Image.Image | np.ndarray]) -> Sequence[ImageLike]:
    """Return the single images of a pipeline's input: of a list, of batches ``[B, 3, H, W]``, or the one image itself.

    Raises:
        ValueError: The input is of another type.
    """
    images: list[ImageLike] = []
    for one in image if isinstance(image, list) else [image]:
        images += [*one] if isinstance(one, torch.Tensor) and one.ndim == 4 else [one]
    for one in images:
        if not isinstance(one, Image.Image | np.ndarray | torch.Tensor):
            raise ValueError(
                f"image is a {type(one).__name__}; give a PIL image, an array [H, W, 1 or 3] of uint8 or uint16, a float tensor "
                "[3, H, W] or [B, 3, H, W] in 0..1, or a list of them. A file is opened by PIL.Image.open"
            )
    return images


def to_pixels(image: ImageLike) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the colors ``[H, W, 1 or 3]`` upright, and alpha ``[H, W]`` where there is one. Those of a tensor have 16 bits.

    Raises:
        ValueError: A Pillow image has a mode without a defined range, or a tensor another type, shape or range.
    """
    if isinstance(image, torch.Tensor):
        return _of_tensor(image), None
    if isinstance(image, np.ndarray):
        return image, None
    image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP_GRAY:
        return _deep_gray(image), None
    if image.mode in _REFUSED:
        raise ValueError(f"image has Pillow's mode {image.mode}; convert it to RGB or L, or give an array of uint8 or uint16")
    transparent = "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBA", "RGBa")
    gray = image.mode in ("1", "L", "LA", "La")
    if image.mode == "1":
        image = _full_range(image)
    image = image.convert(("LA" if gray else "RGBA") if transparent else ("L" if gray else "RGB"))
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return pixels[:, :, None], None
    return (pixels, None) if pixels.shape[2] == 3 else (pixels[:, :, :-1], pixels[:, :, -1])


def to_mask(mask: ImageLike) -> np.ndarray:
    """Return the `brightness` ``[H, W]`` of a mask, uint8 or uint16; arrays may also be of bool, or of floats in 0..1.

    Raises:
        ValueError: As for `to_pixels`, or an array is of another type or range.
    """
    if isinstance(mask, np.ndarray):
        mask = _integers(mask if mask.ndim == 3 else mask[:, :, None])
    return brightness(*to_pixels(mask))


def _integers(mask: np.ndarray) -> np.ndarray:
    """Return a mask of bool or of floats in 0..1 as uint8 or uint16; others of uint8 or uint16 unchanged."""
    if mask.dtype == bool:
        return mask.astype(np.uint8) * 255
    if mask.dtype.kind == "f":
        if not (mask.min() >= 0 and mask.max() <= 1):
            raise ValueError(f"the mask's values are in {mask.min():.3g}..{mask.max():.3g}; scale them to 0..1")
        return (mask * 65535).round().astype(np.uint16)
    if mask.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"the mask is {mask.dtype}; give bool, uint8, uint16, or floats in 0..1")
    return mask


def check_output(images: Sequence[ImageLike], output_type: str) -> None:
    """Refuse arrays of 16-bit color where Pillow images are to come back: Pillow has none of these.

    Raises:
        ValueError: ``output_type`` is unknown, or cannot hold an image.
    """
    if output_type not in ("pil", "np", "pt"):
        raise ValueError(f"output_type {output_type!r} is unknown; choose pil, np or pt")
    if output_type == "pil" and any(isinstance(one, np.ndarray) and one.dtype == np.uint16 and one.shape[2:] == (3,) for one in images):
        raise ValueError("Pillow has no 16-bit color, which an array here is; give output_type='np' or 'pt'")


def from_pixels(pixels: np.ndarray, alpha: np.ndarray | None, output_type: str) -> Image.Image | np.ndarray | torch.Tensor:
    """Return pixels ``[H, W, 1 or 3]`` as a Pillow image with alpha (``pil``), unchanged (``np``) or as ``[C, H, W]`` in 0..1 (``pt``).

    Color of 16 bits, which a tensor has, becomes a Pillow image of 8 bits, as in diffusers.
    """
    if output_type == "np":
        return pixels
    if output_type == "pt":
        return torch.from_numpy(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max).permute(2, 0, 1)
    if pixels.dtype == np.uint16 and pixels.shape[2] == 3:
        pixels = (pixels / 257).round().astype(np.uint8)
    together = pixels if alpha is None else np.dstack([pixels, alpha])
    return Image.fromarray(together[:, :, 0] if together.shape[2] == 1 else together)


def _of_tensor(image: torch.Tensor) -> np.ndarray:
    if image.ndim != 3 or len(image) != 3 or not image.numel() or not image.is_floating_point():
        raise ValueError(
            f"a tensor of {image.dtype} and shape {list(image.shape)} is no image; give floats [3, H, W] or [B, 3, H, W] in 0..1"
        )
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"the tensor's values are in {low:.3g}..{high:.3g}; scale them to 0..1")
    return image.detach().cpu().float().mul(65535).round().permute(1, 2, 0).numpy().astype(np.uint16)


def _deep_gray(image: Image.Image) -> np.ndarray:
    """Return 16-bit gray of either byte order, ``[H, W, 1]``."""
    if "transparency" in image.info:  # Pillow has no 16-bit gray with alpha
        raise ValueError("image is 16-bit gray with a transparent value, which Pillow cannot hold; use mimdit restore on its file")
    return np.asarray(image).astype(np.uint16)[:, :, None]


def _full_range(image: Image.Image) -> Image.Image:
    """Return an image of mode 1 as L, with the transparent value in L's range."""
    gray = image.convert("L")
    if isinstance(key := image.info.get("transparency"), int):
        gray.info["transparency"] = 255 * min(key, 1)
    return gray
