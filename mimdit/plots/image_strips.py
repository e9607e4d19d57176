"""Strips of images: a title, and below it a row of pictures of one scene, each with its caption."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from mimdit.evaluation.metrics import psnr

_MARGIN = 8
_PAPER, _INK, _SOFT = (255, 255, 255), (20, 20, 20), (105, 105, 105)


@dataclass(frozen=True)
class Strip:
    """A scene: its title, and pictures (from `square`) with one caption each."""

    title: str
    pictures: list[Image.Image]
    captions: list[str]


def compare_with_truth(
    title: str, images: Mapping[str, torch.Tensor | None], truth: torch.Tensor | None, side: int, *, digits: int = 2
) -> Strip:
    """Return the strip of a scene: versions of an image with their PSNR, then the truth.

    Args:
        title: Title of the strip.
        images: Versions ``[3, H, W]`` in 0..1 by caption; None is left out.
        truth: Ground truth of the same shape, or None, in which case captions have no PSNR.
        side: Side of a picture in pixels.
        digits: Decimals of PSNR.
    """
    shown = {name: image for name, image in images.items() if image is not None}
    captions = [*shown]
    if truth is not None:
        captions = [f"{name}  {psnr(image[None], truth[None]).item():.{digits}f} dB" for name, image in shown.items()]
        shown, captions = shown | {"truth": truth}, [*captions, "truth"]
    return Strip(title, [square(image, side) for image in shown.values()], captions)


def readable_group(name: str) -> str:
    """Return a degradation group's readable name: ``09Lowlight_Haze`` becomes ``Lowlight + Haze``."""
    return " + ".join(name.lstrip("0123456789").split("_"))


def square(image: torch.Tensor, side: int) -> Image.Image:
    """Return the central square of ``image [3, H, W]`` in 0..1 as an 8-bit picture of ``side`` pixels a side."""
    pixels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    picture = picture.crop((left, top, left + edge, top + edge))
    return picture if edge == side else picture.resize((side, side), Image.Resampling.LANCZOS)


def draw_strips(strips: list[Strip], *, per_line: int = 1, columns: int | None = None) -> Image.Image:
    """Lay out strips of pictures on white.

    Args:
        strips: Strips to draw.
        per_line: Strips side by side.
        columns: Pictures of a strip side by side, the others below; None for all.

    Raises:
        ValueError: There is nothing to draw.
    """
    if not strips:
        raise ValueError("no strip to draw: no sample was offered; validate or test on at least one image")
    side, most = strips[0].pictures[0].width, max(len(strip.pictures) for strip in strips)
    columns = min(columns or most, most)
    title_font, caption_font = _font(side // 13), _font(side // 17)
    title_height, caption_height = int(title_font.size * 1.6), int(caption_font.size * 1.6)
    picture_height = side + caption_height
    width, height = columns * (side + _MARGIN) + 2 * _MARGIN, title_height + math.ceil(most / columns) * picture_height + _MARGIN
    per_line = min(per_line, len(strips))
    sheet = Image.new("RGB", (per_line * width, math.ceil(len(strips) / per_line) * height + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for index, strip in enumerate(strips):
        left, top = (index % per_line) * width + _MARGIN, (index // per_line) * height + _MARGIN
        pen.text((left, top), strip.title, fill=_INK, font=title_font)
        for place, (picture, caption) in enumerate(zip(strip.pictures, strip.captions, strict=True)):
            x = left + (place % columns) * (side + _MARGIN)
            y = top + title_height + (place // columns) * picture_height
            sheet.paste(picture, (x, y))
            pen.text((x, y + side + 2), caption, fill=_SOFT, font=caption_font)
    return sheet


def _font(size: int) -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(max(10, size)))  # with a size, Pillow's own font is of this type
