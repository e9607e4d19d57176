"""Raindrops on the window or lens: each is a small fish-eye lens with an inverted, defocused view of the scene. Not in the paper."""

import cv2
import numpy as np

from datamodules.degradations.formula import Formula

PLACE = 2
"""Position on the path of the light, from the scene (0) to the file (6)."""

STREAM = 2
"""Key of the random stream; it stays the same when positions change."""

_LARGEST_COVERAGE = 0.35
"""Fraction of the image under drops at severity 1, overlaps counted twice."""


def _drop_radii(area: float, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Draw radii in pixels, most of them small, whose disks together cover the fraction of the area that the severity gives."""
    radii = rng.uniform(4.0, 8.0) * np.exp(np.abs(rng.normal(0.0, 0.5, 400)))
    radii = np.minimum(radii, 22.0)
    covered = np.cumsum(np.pi * radii**2)
    return radii[covered <= _LARGEST_COVERAGE * severity * area]


def _drop_shape(radius: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return offsets ``dy, dx`` in a patch around a drop, and its distance map: 0 in the center, 1 on the outline."""
    reach = int(np.ceil(1.6 * radius)) + 1
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    angle = np.arctan2(dy, dx)
    phase = rng.uniform(0.0, 2.0 * np.pi, 2)
    outline = 1.0 + 0.09 * np.sin(2.0 * angle + phase[0]) + 0.06 * np.sin(3.0 * angle + phase[1])
    # Gravity makes drops taller than wide, and heavier below.
    tall = rng.uniform(1.0, 1.25)
    distance = np.hypot(dx, dy / tall) / (radius * outline * (1.0 + 0.12 * np.sin(angle)))
    return dy, dx, distance.astype(np.float32)


def raindrop(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Put raindrops in front of a float32 image ``[H, W, 3]`` in 0..1. Radii are 4 to 22 pixels.

    A drop shows a wide part of the scene, inverted and blurred, with a dark upper and a bright lower rim. Its outline is soft because the
    drop is nearer than the focus. The covered fraction grows linearly with the severity.
    """
    height, width = image.shape[:2]
    map_y, map_x = np.mgrid[:height, :width].astype(np.float32)
    alpha, shade = np.zeros((height, width), np.float32), np.ones((height, width), np.float32)
    # Drawn before the drops, whose number depends on the severity, so that a higher severity adds drops and changes nothing else.
    softness, opacity, defocus = rng.uniform(0.08, 0.3), rng.uniform(0.85, 1.0), rng.uniform(1.5, 3.0)
    for radius in _drop_radii(height * width, severity, rng):
        center_y, center_x = rng.integers(0, height), rng.integers(0, width)
        dy, dx, distance = _drop_shape(radius, rng)
        reach = dy.shape[0] // 2
        top, left = max(0, center_y - reach), max(0, center_x - reach)
        bottom, right = min(height, center_y + reach + 1), min(width, center_x + reach + 1)
        patch = (slice(top - center_y + reach, bottom - center_y + reach), slice(left - center_x + reach, right - center_x + reach))
        place = (slice(top, bottom), slice(left, right))
        dy, dx, distance = dy[patch], dx[patch], distance[patch]
        cover = np.clip((1.0 - distance) / softness + 0.5, 0.0, 1.0)
        inside = cover > 0.0
        # Rays bend more toward the rim, so the view widens with the distance from the center.
        view = -rng.uniform(2.0, 4.0) * (0.6 + 0.8 * np.minimum(distance, 1.0) ** 2)
        map_y[place] = np.where(inside, center_y + view * dy, map_y[place])
        map_x[place] = np.where(inside, center_x + view * dx, map_x[place])
        rim = np.clip(distance, 0.0, 1.0) ** 3
        lit = 1.0 + rng.uniform(0.0, 0.15) + rim * (0.45 * dy / (np.abs(dy).max() + 1.0) - 0.15)
        shade[place] = np.where(inside, lit, shade[place])
        alpha[place] = np.maximum(alpha[place], cover)
    content = cv2.GaussianBlur(image, (0, 0), defocus)
    content = cv2.remap(content, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    content = cv2.GaussianBlur(np.clip(content * shade[..., None], 0.0, 1.0), (0, 0), 0.8)
    alpha *= np.float32(opacity)
    return image + alpha[..., None] * (content - image)


def _content(image: np.ndarray, shift_y: np.ndarray, shift_x: np.ndarray, defocus: float) -> np.ndarray:
    """Return the scene, defocused by ``defocus`` pixels, through water that shifts each ray by a number of pixels."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    soft = cv2.GaussianBlur(image, (0, 0), defocus)
    return cv2.remap(soft, x + shift_x, y + shift_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def pools(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Put pools of water in front of an image ``[H, W, 3]``: nearby drops merge into one soft outline.

    The height of the water is the sum of Gaussian drops. Where it exceeds a level there is water, whose slope bends the rays far enough to
    invert the scene. The number of drops grows with the severity.
    """
    height, width = image.shape[:2]
    largest, softness, opacity = rng.uniform(5.0, 12.0), rng.uniform(0.15, 0.6), rng.uniform(0.85, 1.0)
    defocus, bend, glint = rng.uniform(1.5, 4.0), rng.uniform(1.5, 3.0), rng.uniform(-0.1, 0.45)
    water = np.zeros((height, width), np.float32)
    for part in (1.0, 0.6, 0.4):
        spread = largest * part
        count = rng.poisson(0.16 * height * width / (2.0 * np.pi * spread**2) * rng.uniform(0.7, 1.3)) + 1
        where, masses = rng.integers(0, height * width, count), rng.uniform(0.6, 1.4, count).astype(np.float32)
        used = round(count * severity)
        seeds = np.zeros((height, width), np.float32)
        np.add.at(seeds.ravel(), where[:used], masses[:used] * np.float32(2.0 * np.pi * spread**2))
        water += cv2.GaussianBlur(seeds, (0, 0), spread, borderType=cv2.BORDER_CONSTANT)
    cover = np.clip((water - np.float32(0.45)) / np.float32(softness) + np.float32(0.5), 0.0, 1.0)
    slope_y, slope_x = (cv2.Sobel(water, cv2.CV_32F, *order, ksize=3, scale=0.125) for order in ((0, 1), (1, 0)))
    # Near the center of a drop of deviation s the slope is -distance / s^2; this factor bends a ray ``bend`` times to the other side.
    reach = np.float32((bend + 1.0) * (0.7 * largest) ** 2)
    content = _content(image, reach * slope_y, reach * slope_x, defocus)
    shade = 1.0 - np.float32(glint) * np.clip(slope_y * np.float32(largest), -1.0, 1.0)
    alpha = (np.float32(opacity) * cover * cover * (3.0 - 2.0 * cover))[..., None]
    return image + alpha * (np.clip(content * shade[..., None], 0.0, 1.0) - image)


def runs(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Let water run down a window in front of an image ``[H, W, 3]``: winding, soft streaks that blur and shift the scene.

    The number of streaks and their opacity grow with the severity.
    """
    height, width = image.shape[:2]
    count = max(2, round(width / 6.5 * rng.uniform(0.6, 1.4)))
    softness, opacity, defocus = rng.uniform(1.2, 3.5), rng.uniform(0.85, 1.0), rng.uniform(3.0, 7.0)
    bend, light = rng.uniform(40.0, 120.0), rng.uniform(-0.2, 0.25)
    canvas = np.zeros((height, width), np.uint8)
    steps = 12
    x = rng.uniform(-5.0, width + 5.0, (count, 1)) + np.cumsum(rng.normal(0.0, 2.5, (count, steps)), axis=1)
    tops, lengths = rng.uniform(-0.5, 0.8, count) * height, rng.uniform(0.3, 1.2, count) * height
    thickness = rng.uniform(3.0, 13.0, count)
    # At least one streak, fainter than at higher severities.
    used = min(count, int(np.ceil(count * severity)))
    for index in range(used):
        y = tops[index] + np.linspace(0.0, lengths[index], steps)
        points = np.rint(16.0 * np.stack([x[index], y], axis=-1)).astype(np.int32)
        cv2.polylines(canvas, [points], False, 255, max(1, round(thickness[index])), cv2.LINE_AA, 4)
        cv2.circle(canvas, (int(points[-1, 0]), int(points[-1, 1])), int(11.0 * thickness[index]), 255, -1, cv2.LINE_AA, 4)
    cover = cv2.GaussianBlur(canvas.astype(np.float32) / np.float32(255.0), (0, 0), softness)
    slope_y, slope_x = (cv2.Sobel(cover, cv2.CV_32F, *order, ksize=3, scale=0.125) for order in ((0, 1), (1, 0)))
    content = _content(image, np.float32(0.4 * bend) * slope_y, np.float32(bend) * slope_x, defocus)
    content = np.clip(content * np.float32(1.0 + light) + np.float32(0.5 * light) * slope_x[..., None], 0.0, 1.0)
    alpha = (np.float32(opacity * min(1.0, 0.5 + severity)) * cover)[..., None] if severity > 0.0 else np.float32(0.0)
    return image + alpha * (content - image)


FORMULAS = {
    "original": Formula(raindrop),
    "pools": Formula(pools),
    "runs": Formula(runs, 0.7),
}
"""Formulas for raindrops, the original first."""
