"""Rain: drops that fall during the exposure leave bright streaks, and the many far ones a veil. Not in the paper."""

import cv2
import numpy as np

from datamodules.degradations.formula import Formula

PLACE = 1
"""Place on the way of the light, from the scene (0) to the file (6)."""

STREAM = 1
"""Key of the random stream; it stays when places change."""

_LAYERS = 3


def streak_kernel(length: float, width: float, angle: float) -> np.ndarray:
    """The image of one falling drop, with peak one: a line of ``length`` pixels with soft ends, ``angle`` radians from the vertical.

    Its profile is a Gaussian of deviation ``width`` pixels.
    """
    reach = int(np.ceil(length / 2.0 + 3.0 * width)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    along, across = x * np.sin(angle) + y * np.cos(angle), x * np.cos(angle) - y * np.sin(angle)
    beyond = np.maximum(np.abs(along) - length / 2.0, 0.0)
    return np.exp(-0.5 * (across**2 + beyond**2) / width**2).astype(np.float32)


def rain_map(height: int, width: int, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Opacity of the rain, float32 ``[height, width]`` in 0..1: layers from far (short, fine, dense) to near (long, wide, few)."""
    angle = rng.normal(0.0, 0.3)
    heaviness = rng.uniform(0.7, 1.3)
    opacity = np.zeros((height, width), np.float32)
    for layer in range(_LAYERS):
        nearness = (layer + rng.random()) / _LAYERS
        length = 6.0 + 34.0 * nearness * rng.uniform(0.6, 1.2)
        kernel = streak_kernel(length, 0.45 + 0.75 * nearness**2, angle + rng.normal(0.0, 0.03))
        # Streaks whose centre lies outside reach in: the margin keeps the borders as rainy as the middle.
        margin = kernel.shape[0] // 2
        area = (height + 2 * margin) * (width + 2 * margin)
        # All streaks of severity 1 are drawn and the first of them used: so a higher severity adds streaks and moves none.
        count = rng.poisson(area * heaviness * 0.0045 * (1.1 - nearness) ** 2)
        where, strength = rng.integers(0, area, count), rng.uniform(0.25, 1.0, count).astype(np.float32)
        used = round(count * severity)
        seeds = np.zeros((height + 2 * margin, width + 2 * margin), np.float32)
        seeds.ravel()[where[:used]] = strength[:used]
        streaks = cv2.filter2D(seeds, -1, kernel, borderType=cv2.BORDER_CONSTANT)[margin : margin + height, margin : margin + width]
        opacity = 1.0 - (1.0 - opacity) * (1.0 - np.clip(streaks * (0.75 - 0.25 * nearness), 0.0, 1.0))
    return opacity


def rain(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Let it rain over a float32 image ``[H, W, 3]`` in 0..1. Lengths and widths are in pixels.

    Streaks and veil are laid over the image as a screen, ``1 - (1 - x)(1 - r)``: they only add light. The number of streaks grows
    linearly with the severity, the veil up to 0.15, the opacity of a streak from half of its own to all of it.
    """
    brightness = rng.uniform(0.7, 1.0) * (0.5 + 0.5 * severity)
    veil = 0.15 * severity * rng.uniform(0.3, 1.0)
    light = 1.0 - (1.0 - veil) * (1.0 - np.float32(brightness) * rain_map(*image.shape[:2], severity, rng))
    tint = np.array([0.97, 0.985, 1.0], np.float32)
    return 1.0 - (1.0 - image) * (1.0 - light[..., None] * tint)


FORMULAS = {
    "original": Formula(rain),
}
