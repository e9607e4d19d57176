"""Rain: drops that fall during the exposure leave bright streaks, and the many distant ones a veil. Not in the paper."""

import cv2
import numpy as np

from datamodules.degradations.formula import Formula

PLACE = 1
"""Position on the path of the light, from the scene (0) to the file (6)."""

STREAM = 1
"""Key of the random stream; it stays the same when positions change."""

_LAYERS = 3


def streak_kernel(length: float, width: float, angle: float) -> np.ndarray:
    """Return the image of one falling drop, with peak one: a line of ``length`` pixels with soft ends, ``angle`` radians from the vertical.

    Its cross-section is a Gaussian of standard deviation ``width`` pixels.
    """
    reach = int(np.ceil(length / 2.0 + 3.0 * width)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    along, across = x * np.sin(angle) + y * np.cos(angle), x * np.cos(angle) - y * np.sin(angle)
    beyond = np.maximum(np.abs(along) - length / 2.0, 0.0)
    return np.exp(-0.5 * (across**2 + beyond**2) / width**2).astype(np.float32)


def rain_map(height: int, width: int, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the opacity of rain, float32 ``[height, width]`` in 0..1: layers from far (short, fine, dense) to near (long, wide, sparse)."""
    angle = rng.normal(0.0, 0.3)
    heaviness = rng.uniform(0.7, 1.3)
    opacity = np.zeros((height, width), np.float32)
    for layer in range(_LAYERS):
        nearness = (layer + rng.random()) / _LAYERS
        length = 6.0 + 34.0 * nearness * rng.uniform(0.6, 1.2)
        kernel = streak_kernel(length, 0.45 + 0.75 * nearness**2, angle + rng.normal(0.0, 0.03))
        # Streaks centered outside reach into the image: the margin keeps the borders as rainy as the middle.
        margin = kernel.shape[0] // 2
        area = (height + 2 * margin) * (width + 2 * margin)
        # Draw all streaks of severity 1 and use the first of them, so that a higher severity adds streaks and moves none.
        count = rng.poisson(area * heaviness * 0.0045 * (1.1 - nearness) ** 2)
        where, strength = rng.integers(0, area, count), rng.uniform(0.25, 1.0, count).astype(np.float32)
        used = round(count * severity)
        seeds = np.zeros((height + 2 * margin, width + 2 * margin), np.float32)
        seeds.ravel()[where[:used]] = strength[:used]
        streaks = cv2.filter2D(seeds, -1, kernel, borderType=cv2.BORDER_CONSTANT)[margin : margin + height, margin : margin + width]
        opacity = 1.0 - (1.0 - opacity) * (1.0 - np.clip(streaks * (0.75 - 0.25 * nearness), 0.0, 1.0))
    return opacity


def rain(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add rain to a float32 image ``[H, W, 3]`` in 0..1. Lengths and widths are in pixels.

    Streaks and veil are blended as a screen, ``1 - (1 - x)(1 - r)``: they only add light. The number of streaks grows linearly with the
    severity, the veil up to 0.15, and the opacity of a streak from half of its maximum to its maximum.
    """
    brightness = rng.uniform(0.7, 1.0) * (0.5 + 0.5 * severity)
    veil = 0.15 * severity * rng.uniform(0.3, 1.0)
    height, width = image.shape[:2]
    light = 1.0 - (1.0 - veil) * (1.0 - np.float32(brightness) * rain_map(height, width, severity, rng))
    tint = np.array([0.97, 0.985, 1.0], np.float32)
    return 1.0 - (1.0 - image) * (1.0 - light[..., None] * tint)


_SLANT = 0.35
"""Standard deviation of the angle of fall from the vertical, in radians."""


def _trails(seeds: np.ndarray, length: float, width: float, angle: float) -> np.ndarray:
    """Extend each seed to a streak of ``length`` by ``width`` pixels, as bright as the seed."""
    return np.minimum(cv2.filter2D(seeds, -1, streak_kernel(length, width, angle), borderType=cv2.BORDER_REFLECT), 1.0)


def _specks(height: int, width: int, density: float, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Draw thresholded noise, float32 ``[height, width]`` in 0..1, with the fraction ``density * severity`` of the pixels lit."""
    field = rng.random((height, width), dtype=np.float32)
    # The threshold falls with the severity: more specks appear and none moves.
    return np.where(field < density * severity, 1.0 - 0.7 * field / np.float32(density), 0.0).astype(np.float32)


def specks(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add rain to an image ``[H, W, 3]`` by thresholded noise, extended in the direction of fall, in one to three widths."""
    height, width = image.shape[:2]
    angle, brightness = rng.normal(0.0, _SLANT), rng.uniform(0.6, 1.0) * (0.5 + 0.5 * severity)
    opacity = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        scale, length, thickness = rng.uniform(1.0, 2.2), rng.uniform(5.0, 22.0), rng.uniform(0.35, 0.7)
        density, strength = 0.08 / length * rng.uniform(0.6, 1.5), rng.uniform(0.5, 1.0)
        small = _specks(int(height / scale) + 1, int(width / scale) + 1, density, severity, rng)
        layer = cv2.resize(_trails(small, length, thickness, angle), (width, height), interpolation=cv2.INTER_LINEAR)
        opacity = np.maximum(opacity, np.float32(strength) * layer)
    opacity = (np.float32(brightness) * opacity)[..., None]
    added = rng.random() < 0.5
    return np.clip(image + np.float32(0.7) * opacity, 0.0, 1.0) if added else image + opacity * (1.0 - image)


def lines(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add gray lines, painted one by one, to an image ``[H, W, 3]`` that gets darker, flatter and softer with the weather.

    The lines cover the background: on bright ground they are darker than it.
    """
    height, width = image.shape[:2]
    angle, spread, longest = rng.normal(0.0, _SLANT), rng.uniform(0.01, 0.12), rng.uniform(14.0, 50.0)
    opacity, gray, softness = rng.uniform(0.45, 0.9), rng.uniform(0.6, 0.95), rng.uniform(0.4, 1.1)
    darkening, mist = rng.uniform(0.0, 0.15), rng.uniform(0.0, 0.6)
    count = int(height * width / 75.0 * rng.uniform(0.6, 1.4) * 14.0 / longest)
    y, x = rng.uniform(-longest / 2.0, height + longest / 2.0, count), rng.uniform(-10.0, width + 10.0, count)
    lengths, angles = longest * rng.uniform(0.3, 1.0, count), angle + rng.normal(0.0, spread, count)
    strengths, wide = rng.uniform(90.0, 255.0, count), rng.random(count) < 0.25
    canvas = np.zeros((height, width), np.uint8)
    # Coordinates have four bits of fraction. The last line lies on top, so the weakest come first.
    ends = np.stack([x, y, x + lengths * np.sin(angles), y + lengths * np.cos(angles)], axis=-1)
    ends = np.rint(16.0 * ends).astype(int)
    used = round(count * severity)
    for index in np.argsort(strengths[:used]):
        x0, y0, x1, y1 = (int(part) for part in ends[index])
        cv2.line(canvas, (x0, y0), (x1, y1), int(strengths[index]), 2 if wide[index] else 1, cv2.LINE_AA, 4)
    alpha = cv2.GaussianBlur(canvas.astype(np.float32) / np.float32(255.0), (0, 0), softness)[..., None] * np.float32(opacity)
    scene = image * np.float32(1.0 - darkening * severity)
    scene = scene + np.float32(mist * severity) * (cv2.GaussianBlur(scene, (0, 0), 1.0) - scene)
    return scene + alpha * (np.float32(gray) - scene)


def drizzle(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add drizzle to an image ``[H, W, 3]``: many fine, short streaks, and a veil that is even or thicker toward the top."""
    height, width = image.shape[:2]
    angle, length, thickness = rng.normal(0.0, _SLANT), rng.uniform(3.0, 9.0), rng.uniform(0.3, 0.6)
    density, strength, gray = rng.uniform(0.15, 0.4) / length, rng.uniform(0.25, 0.45), rng.uniform(0.65, 0.9)
    slope, veil = rng.uniform(0.0, 0.6), rng.uniform(0.04, 0.16)
    streaks = _trails(_specks(height, width, density, severity, rng), length, thickness, angle)
    opacity = np.float32(strength * (0.5 + 0.5 * severity)) * streaks[..., None]
    rainy = image + opacity * (1.0 - image)
    cover = np.linspace(1.0 + slope, 1.0 - slope, height, dtype=np.float32)[:, None, None] * np.float32(veil * severity)
    return rainy + cover * (np.float32(gray) - rainy)


FORMULAS = {
    "original": Formula(rain),
    "specks": Formula(specks),
    "lines": Formula(lines),
    "drizzle": Formula(drizzle, 0.7),
}
"""Formulas for rain, the original first."""
