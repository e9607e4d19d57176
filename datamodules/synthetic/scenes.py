"""Procedural clean images of dead leaves, random shapes that occlude one another, for training where no photographs may be used."""

from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.spectrum import power_law_noise
from datamodules.synthetic.tone import random_tone

_SUBPIXEL_BITS = 4
_VERTICES = 28

_OVERSAMPLING = 2

_KINDS = {"dense": 0.35, "objects": 0.35, "smooth": 0.08, "texture": 0.12, "text": 0.1}
"""Kinds of scenes and their probabilities."""

_STREAM = 0x5CE4E
"""Key that separates the random stream of the scenes from the degradations' at equal seeds."""


@dataclass(frozen=True)
class LeafStyle:
    """Parameters shared by the leaves of one scene; lengths are fractions of the canvas side. Not in the paper.

    ``count`` leaves have radii between ``smallest`` and ``largest`` with density ``radius ** -3`` (the scale-invariant law of Lee, Mumford
    and Huang 2001). ``contrast`` scales the textures, ``shading`` the gradients; ``roughness`` is the spectral exponent of the noise
    textures. ``chroma`` is the spread of the colors around the scene's few base colors. ``glyphs`` blocks of text and ``lines``
    straight lines are painted over the leaves.
    """

    count: int
    smallest: float
    largest: float
    contrast: float
    shading: float
    roughness: float
    chroma: float
    glyphs: int = 0
    lines: int = 0


def _outlines(count: int, radius: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return closed outlines ``[count, vertices, 2]`` around the origin: ellipses, rectangles, polygons and smooth blobs."""
    angle = np.linspace(0.0, 2.0 * np.pi, _VERTICES, endpoint=False)
    corners = rng.choice([0, 0, 3, 4, 4, 4, 5, 6], size=count)[:, None]
    sector = 2.0 * np.pi / np.maximum(corners, 1)
    polygon = np.cos(sector / 2.0) / np.cos(np.mod(angle, sector) - sector / 2.0)
    phases = rng.uniform(0.0, 2.0 * np.pi, (2, count, 1))
    wobble = rng.choice([0.0, 0.0, 0.25], size=(count, 1))
    smooth = 1.0 + wobble * (np.sin(2.0 * angle + phases[0]) + 0.6 * np.sin(3.0 * angle + phases[1]))
    reach = np.where(corners > 0, polygon, smooth)
    outline = np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=-1)
    elongation = np.exp(np.abs(rng.normal(0.0, 0.5, count)))
    outline *= (radius[:, None] * np.stack([elongation**0.5, elongation**-0.5], axis=-1))[:, None]
    turn = rng.uniform(0.0, np.pi, count)
    turn = np.where(rng.random(count) < 0.35, np.round(turn / (np.pi / 2)) * np.pi / 2 + rng.normal(0.0, 0.04, count), turn)
    rotation = np.stack([np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)], axis=-1).reshape(count, 2, 2)
    return np.einsum("nij,nvj->nvi", rotation, outline)


def _paint_glyphs(labels: np.ndarray, label: int, rng: np.random.Generator) -> None:
    """Paint one block of random characters into ``labels``."""
    side = labels.shape[0]
    mask = np.zeros(labels.shape, np.uint8)
    scale = float(rng.uniform(0.3, 1.6)) * side / 256
    face = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_DUPLEX]))
    left, top = (int(value) for value in rng.integers(-side // 8, side * 3 // 4, 2))
    for line in range(int(rng.integers(1, 7))):
        text = bytes(rng.integers(33, 126, int(rng.integers(3, 24))).astype(np.uint8)).decode("ascii")
        baseline = top + int((line + 1) * 34 * scale)
        cv2.putText(mask, text, (left, baseline), face, scale, 255, max(1, round(2 * scale)))
    labels[mask > 0] = label


def _paint_lines(labels: np.ndarray, first: int, count: int, rng: np.random.Generator) -> None:
    """Paint ``count`` straight lines, some as a bundle of parallels, as labels from ``first`` on."""
    side = labels.shape[0]
    for index in range(count):
        start, end = rng.uniform(-0.2, 1.2, (2, 2)) * side
        width = int(rng.integers(1, max(2, side // 40)))
        copies = int(rng.choice([1, 1, 5]))
        step = rng.uniform(1.5, 5.0) * width * np.array([end[1] - start[1], start[0] - end[0]]) / (np.hypot(*(end - start)) + 1e-6)
        for copy in range(copies):
            ends = np.rint([start + copy * step, end + copy * step]).astype(int).tolist()
            cv2.line(labels, ends[0], ends[1], first + index, width)


def paint_labels(side: int, style: LeafStyle, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paint the leaves over one another.

    Returns:
        The label map, int32 ``[side, side]`` (0 is the ground, later leaves are nearer), and the center ``[n, 2]`` and radius ``[n]`` of
        each label in pixels.
    """
    small, large = style.smallest * side, style.largest * side
    radius = (small**-2 - rng.random(style.count) * (small**-2 - large**-2)) ** -0.5
    # Large leaves tend to lie below; otherwise they would hide the small ones and their detail.
    radius = radius[np.argsort(-radius * np.exp(rng.normal(0.0, 0.7, style.count)))]
    center = rng.uniform(-0.1, 1.1, (style.count, 2)) * side
    outlines = np.rint((_outlines(style.count, radius, rng) + center[:, None]) * 2**_SUBPIXEL_BITS).astype(np.int32)
    labels = np.zeros((side, side), np.int32)
    for index, outline in enumerate(outlines):
        cv2.fillPoly(labels, [outline], index + 1, shift=_SUBPIXEL_BITS)
    total = 1 + style.count + style.lines + style.glyphs
    _paint_lines(labels, 1 + style.count, style.lines, rng)
    for index in range(style.glyphs):
        _paint_glyphs(labels, 1 + style.count + style.lines + index, rng)
    centers = np.full((total, 2), side / 2.0)
    radii = np.full(total, side / 2.0)
    centers[1 : style.count + 1], radii[1 : style.count + 1] = center, radius
    return labels, centers, radii


def _colors(total: int, style: LeafStyle, rng: np.random.Generator) -> np.ndarray:
    """Draw colors ``[total, 3]``: widely spread in lightness, near one of the scene's few hues, as in photographs."""
    # Opponent axes (blue-yellow, red-green) of natural images: the first varies about twice as much (Ruderman 1998).
    opponent = np.array([[0.5, 0.3, -0.8], [0.7, -0.5, 0.1]])
    # The world is warmer than gray on average, and its strong blues are mostly sky, so the mean leans to yellow.
    themes = rng.normal([0.4, 0.0], 1.0, (int(rng.integers(1, 6)), 2)) * [2.0 * style.chroma, style.chroma]
    position = themes[rng.integers(len(themes), size=total)] + rng.normal(0.0, 0.35 * style.chroma, (total, 2))
    lightness = rng.uniform(0.05, 0.95) * 0.4 + 0.6 * rng.random(total)
    return lightness[:, None] * np.exp(np.clip(position, -0.9, 1.2) @ opponent)


def shade_labels(labels: np.ndarray, centers: np.ndarray, radii: np.ndarray, style: LeafStyle, rng: np.random.Generator) -> np.ndarray:
    """Fill a label map with shaded, textured colors: float32 ``[side, side, 3]``, nominally in 0..1 but not clipped.

    Every label has a linear and a radial shading, and its own mixture of two noise textures and a grating (sine to square wave, some
    crossed to a checker, some bent by the noise).
    """
    side, total = labels.shape[0], len(radii)
    index = labels.astype(np.intp)

    def per_pixel(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)[index]

    y, x = np.mgrid[:side, :side].astype(np.float32)
    shift = rng.integers(0, side, (2, total))
    coarse = power_law_noise(side, side, style.roughness, rng)
    fine = power_law_noise(side, side, max(0.3, style.roughness - rng.uniform(0.2, 0.7)), rng)
    moved = ((y.astype(np.intp) + shift[0][index]) % side) * side + (x.astype(np.intp) + shift[1][index]) % side
    coarse, fine = coarse.ravel()[moved], fine.ravel()[moved]

    # Periods from about 5 canvas pixels, which the 2x reduction still resolves, to the size of the canvas.
    frequency = 2.0 * np.pi / (5.0 * (side / 10.0) ** rng.random(total))
    direction, phase = rng.uniform(0.0, 2.0 * np.pi, (2, total))
    fx, fy = per_pixel(frequency * np.cos(direction)), per_pixel(frequency * np.sin(direction))
    bend = per_pixel(np.where(rng.random(total) < 0.4, rng.uniform(0.0, 1.5, total), 0.0)) * coarse
    sharp = per_pixel(np.exp(rng.uniform(0.0, 2.5, total)))
    wave = np.clip(sharp * np.sin(fx * x + fy * y + bend + per_pixel(phase)), -1.0, 1.0)
    crossed = per_pixel(rng.random(total) < 0.3)
    wave *= 1.0 - crossed + crossed * np.clip(sharp * np.sin(fx * y - fy * x + bend), -1.0, 1.0)

    kinds = rng.random((3, total)) ** 2 * (rng.random((3, total)) < np.array([0.35, 0.6, 0.6])[:, None])
    texture = per_pixel(0.12 * style.contrast * kinds[0]) * wave + per_pixel(0.12 * style.contrast * kinds[1]) * fine
    u, v = (x - per_pixel(centers[:, 0])) / per_pixel(radii), (y - per_pixel(centers[:, 1])) / per_pixel(radii)
    slope = rng.normal(0.0, 0.12 * style.shading, (2, total))
    bulge = rng.normal(0.0, 0.08 * style.shading, total)
    light = per_pixel(slope[0]) * u + per_pixel(slope[1]) * v + per_pixel(bulge) * np.minimum(u * u + v * v, 4.0) + texture

    colors = _colors(total, style, rng)
    # Texture moves mostly lightness; the coarse noise also moves the hue.
    tint = 1.0 + rng.normal(0.0, 0.25, (total, 3))
    drift = 0.15 * style.contrast * kinds[2][:, None] * (1.0 + rng.normal(0.0, 0.3, (total, 3)))
    image = colors.astype(np.float32)[index]
    image += tint.astype(np.float32)[index] * light[..., None]
    image += drift.astype(np.float32)[index] * coarse[..., None]
    return image


def _style(kind: str, rng: np.random.Generator) -> LeafStyle:
    """Draw the parameters of one kind of scene."""
    chroma = float(rng.uniform(0.02, 0.25))
    roughness = float(rng.uniform(0.7, 1.4))
    lines = int(rng.integers(1, 9)) if rng.random() < 0.35 else 0
    if kind == "dense":
        count, smallest, largest, contrast, shading = rng.integers(150, 450), 0.02, 0.5, rng.uniform(0.3, 1.5), rng.uniform(0.3, 1.5)
    elif kind == "objects":
        count, smallest, largest, contrast, shading = rng.integers(8, 90), 0.06, 0.8, rng.uniform(0.1, 1.2), rng.uniform(0.5, 2.0)
    elif kind == "smooth":
        count, smallest, largest, contrast, shading = rng.integers(0, 6), 0.1, 1.2, rng.uniform(0.0, 0.25), rng.uniform(0.5, 2.0)
        roughness, lines = 1.4, lines // 4
    elif kind == "texture":
        count, smallest, largest, contrast, shading = rng.integers(0, 6), 0.1, 0.9, rng.uniform(1.0, 3.0), rng.uniform(0.2, 1.5)
        lines //= 4
    else:
        count, smallest, largest, contrast, shading = rng.integers(1, 40), 0.03, 0.6, rng.uniform(0.0, 0.8), rng.uniform(0.1, 1.0)
    glyphs = int(rng.integers(1, 5)) if kind == "text" else 0
    return LeafStyle(int(count), smallest, largest, float(contrast), float(shading), roughness, chroma, glyphs, lines)


def _defocus_background(image: np.ndarray, labels: np.ndarray, style: LeafStyle, rng: np.random.Generator) -> np.ndarray:
    """Blur the pixels behind a random leaf, and keep the nearer leaves sharp."""
    near = (labels > rng.uniform(0.2, 1.0) * style.count).astype(np.uint8)
    sigma = float(image.shape[0] / 256 * np.exp(rng.uniform(0.7, 2.3)))
    # Normalized by the blurred mask, so that the sharp leaves do not bleed into the background.
    far = (1 - near).astype(np.float32)
    weight = cv2.GaussianBlur(far, (0, 0), sigma) + 1e-3
    blurred = cv2.GaussianBlur(image * far[..., None], (0, 0), sigma) / weight[..., None]
    return np.where(near[..., None] > 0, image, blurred)


def make_scene(size: int, *, seed: int) -> np.ndarray:
    """Make a clean image, uint8 RGB ``[size, size, 3]``; equal arguments give equal bytes.

    The image shows dead leaves (densely covered, a few objects, smooth, textured, or with text), painted at twice the size and averaged for
    anti-aliased edges, sometimes with a defocused background, under smooth light, with a random final tone. The set contains naturally
    dark, bright, pale and saturated images, so that a model does not learn that a dark photograph is a defect. Not in the paper; after Lee,
    Mumford and Huang 2001. Achddou et al. 2021 trained restoration models on such images.

    Raises:
        ValueError: ``size`` is below 16 pixels.
    """
    if size < 16:
        raise ValueError(f"a scene needs a size of at least 16 pixels, not {size}")
    rng = np.random.default_rng([_STREAM, seed])
    side = size * _OVERSAMPLING
    style = _style(str(rng.choice(list(_KINDS), p=list(_KINDS.values()))), rng)
    labels, centers, radii = paint_labels(side, style, rng)
    image = shade_labels(labels, centers, radii, style, rng)
    if rng.random() < 0.3:
        image = _defocus_background(image, labels, style, rng)
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 0.7)))
    light = power_law_noise(size, size, 2.0, rng) * float(rng.uniform(0.0, 0.25))
    return random_tone(np.maximum(image, 0.0) * np.exp(light)[..., None], rng)
