"""MiMDiTPipeline: a restorer with the interface of a diffusers pipeline."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image, ImageOps

from mimdit.backbone.codec import PixelCodec
from mimdit.backbone.dit import DiTBackbone
from mimdit.core.files import replace_when_whole
from mimdit.restorer.pixels import restore_pixels
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sampling import SamplingSettings
from mimdit.weights import EMBEDDED_RESTORER

ModelMixin = Restorer
"""Diffusers loads a component of another library by its ``from_pretrained`` if that library has the component's class under this name."""

_CODE = "pipeline.py"
"""File that ``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`` runs to find the class."""

_DEEP_GRAY = ("I;16", "I;16L", "I;16B", "I;16N")
_REFUSED = ("I", "F", "LAB", "HSV")
"""Pillow's modes whose values have another range or meaning, which a conversion would clip or take for RGB."""


class MiMDiTPipeline(DiffusionPipeline):
    """A `Restorer` as a diffusers pipeline: ``MiMDiTPipeline.from_pretrained()(image).images[0]``.

    Args:
        restorer: The restorer.
    """

    model_cpu_offload_seq = "restorer"

    def __init__(self, restorer: Restorer) -> None:
        super().__init__()
        self.register_modules(restorer=restorer)

    def __call__(
        self,
        image: Image.Image | np.ndarray | list[Image.Image | np.ndarray],
        num_inference_steps: int | None = None,
        *,
        output_type: str = "pil",
        return_dict: bool = True,
        settings: SamplingSettings | None = None,
        amount: float = 1.0,
        mask_image: Image.Image | np.ndarray | list[Image.Image | np.ndarray] | None = None,
        feather: float | None = None,
        **options: Any,
    ) -> ImagePipelineOutput | tuple[list]:
        """Restore one image or several, each at its own size.

        Args:
            image: Pillow images, or arrays ``[H, W, 1 or 3]`` of uint8 or uint16. Gray, transparency and 16 bits are kept, and an
                image with an orientation tag is turned upright.
            num_inference_steps: Sampler steps; None for the restorer's own.
            output_type: ``pil``, or ``np`` for a list of arrays with the input's dtype.
            return_dict: If true, return an `ImagePipelineOutput`, otherwise a tuple.
            settings: How to restore; None for the restorer's own settings.
            amount: Share of the restored image in the result, 0..1; the rest is the original. They are blended in linear light.
            mask_image: Where to restore: white is restored, black is kept, gray is blended. A Pillow image, whose transparent pixels are
                black, or an array ``[H, W]`` or ``[H, W, 1 or 3]`` of bool, uint8, uint16 or floats in 0..1; one for all images or a list
                with one each, of the upright image's size. None for everywhere.
            feather: Width in pixels of the mask's soft edge, inside the white; 0 for none, None for one percent of the shorter side.
            **options: Fields of `SamplingSettings` to change, such as ``tile`` or ``steer``, and other arguments of `Restorer.restore`.

        Raises:
            ValueError: ``output_type`` is unknown, a setting is out of range, an image has a mode without a defined range, or a mask has
            another size than its image.
        """
        if output_type not in ("pil", "np"):
            raise ValueError(f"output_type {output_type!r} is unknown; choose pil or np")
        overrides = {field.name: options.pop(field.name) for field in fields(SamplingSettings) if field.name in options}
        settings = self.restorer.sampling_settings(settings, **{"steps": num_inference_steps} | overrides)
        given = image if isinstance(image, list) else [image]
        masks = mask_image if isinstance(mask_image, list) else [mask_image] * len(given)
        if len(masks) != len(given):
            raise ValueError(f"there are {len(masks)} masks for {len(given)} images; give one mask, or a list with one for each image")
        restored = []
        with self.progress_bar(total=len(given)) as bar:  # pyright: ignore[reportCallIssue]  (`torch.compiler.disable` has no types)
            for one, mask in zip(given, masks):
                pixels, alpha = _pixels(one)
                blending = {"amount": amount, "mask": None if mask is None else mask_values(mask), "feather": feather}
                result = restore_pixels(self.restorer, pixels, settings, **blending, **options)
                restored.append(_as_pillow(result, alpha) if output_type == "pil" else result)
                bar.update()
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=restored) if return_dict else (restored,)

    def enable_sequential_cpu_offload(self, *_: object, **__: object) -> None:
        """Refuse: weights are used outside their modules' ``forward``, where hooks on every layer do not reach.

        Raises:
            ValueError: Always; it names `enable_model_cpu_offload`.
        """
        raise ValueError("a MiMDiTPipeline cannot be offloaded layer by layer; use enable_model_cpu_offload, and tile for large images")

    def save_pretrained(self, save_directory: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write the restorer's folder for `from_pretrained`, with the transformer in ``backbone``.

        With this package installed, diffusers reads it too: ``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)``, or only
        the transformer with ``SD3Transformer2DModel.from_pretrained(folder, subfolder="backbone")``.

        Args:
            save_directory: Folder to write.
            dtype: Precision of the written transformer; None for its own.

        Raises:
            ValueError: The backbone has adapters, or a codec other than `PixelCodec`; the folder cannot hold these.
        """
        backbone = self.restorer.backbone
        if backbone.lora is not None or not isinstance(backbone.codec, PixelCodec):
            remedy = "use Restorer.save_pretrained, and give the backbone to from_pretrained again"
            raise ValueError(f"a pipeline's folder holds no adapters and no {type(backbone.codec).__name__}; {remedy}")
        folder = Path(save_directory)
        self.restorer.save_pretrained(folder)
        backbone.save_pretrained(folder / "backbone", dtype=dtype or backbone.transformer.dtype)
        index = {
            "_class_name": [Path(_CODE).stem, MiMDiTPipeline.__name__],
            "_diffusers_version": diffusers.__version__,
            "restorer": [MiMDiTPipeline.__module__, Restorer.__name__],
        }
        with replace_when_whole(folder / _CODE) as path:
            path.write_text(f"from {MiMDiTPipeline.__module__} import {MiMDiTPipeline.__name__}  # noqa: F401\n")
        with replace_when_whole(folder / "model_index.json") as path:
            path.write_text(json.dumps(index, indent=2) + "\n")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path = EMBEDDED_RESTORER,
        *,
        backbone: DiTBackbone | None = None,
        torch_dtype: torch.dtype | None = None,
    ) -> MiMDiTPipeline:
        """Read a folder written by `save_pretrained` or ``mimdit export``; by default the one that comes with the package.

        Args:
            pretrained_model_name_or_path: The folder.
            backbone: As for `Restorer.from_pretrained`.
            torch_dtype: As for `Restorer.from_pretrained`.

        Raises:
            ValueError: The folder lacks a file, or the backbone is not the one it was trained on.
        """
        return cls(Restorer.from_pretrained(pretrained_model_name_or_path, backbone=backbone, torch_dtype=torch_dtype))


def _pixels(image: Image.Image | np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the colors ``[H, W, 1 or 3]`` upright, and alpha ``[H, W]`` where there is one."""
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


def mask_values(mask: Image.Image | np.ndarray) -> np.ndarray:
    """Return the values of a mask, as `mimdit.restorer.blending.feathered` takes them; what is transparent is black."""
    pixels, alpha = _pixels(mask)
    if alpha is None:
        return pixels
    most = np.float32(np.iinfo(pixels.dtype).max)
    return (pixels / most) * (alpha / most)[:, :, None]


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


def _as_pillow(pixels: np.ndarray, alpha: np.ndarray | None) -> Image.Image:
    together = pixels if alpha is None else np.dstack([pixels, alpha])
    return Image.fromarray(together[:, :, 0] if together.shape[2] == 1 else together)
