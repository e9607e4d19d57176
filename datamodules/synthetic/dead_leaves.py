"""Dead leaves: random shapes that occlude one another, each with its own colour, shading and texture."""

from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.spectrum import power_law_noise

_SUBPIXEL_BITS = 4
_VERTICES = 28


@dataclass(frozen=True)
class LeafStyle:
    """What the leaves of one scene have in common (ours; lengths are fractions of the canvas side).

    ``count`` leaves have radii between ``smallest`` and ``largest`` with density ``radius ** -3`` (the scale-invariant law of Lee,
    Mumford and Huang 2001). ``contrast`` scales the textures, ``shading`` the gradients, and ``roughness`` is the spectral exponent of
    the noise textures. ``chroma`` is the spread of the colours around the scene's few base colours.
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
    """Closed outlines ``[count, vertices, 2]`` around the origin: ellipses, rectangles, polygons and smooth blobs."""
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


def _draw_glyphs(labels: np.ndarray, label: int, rng: np.random.Generator) -> None:
    """Write one block of random characters into ``labels``."""
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


def _draw_lines(labels: np.ndarray, first: int, count: int, rng: np.random.Generator) -> None:
    """Draw ``count`` straight lines, some of them as a bundle of parallels, as labels from ``first`` on."""
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
    """Draw the leaves over one another.

    Returns the label map, int32 ``[side, side]`` (0 is the ground, later leaves lie nearer), and for each label its centre ``[n, 2]``
    and radius ``[n]`` in pixels.
    """
    small, large = style.smallest * side, style.largest * side
    radius = (small**-2 - rng.random(style.count) * (small**-2 - large**-2)) ** -0.5
    # Large leaves tend to lie below, otherwise they would hide the small ones and with them the detail.
    radius = radius[np.argsort(-radius * np.exp(rng.normal(0.0, 0.7, style.count)))]
    centre = rng.uniform(-0.1, 1.1, (style.count, 2)) * side
    outlines = np.rint((_outlines(style.count, radius, rng) + centre[:, None]) * 2**_SUBPIXEL_BITS).astype(np.int32)
    labels = np.zeros((side, side), np.int32)
    for index, outline in enumerate(outlines):
        cv2.fillPoly(labels, [outline], index + 1, shift=_SUBPIXEL_BITS)
    total = 1 + style.count + style.lines + style.glyphs
    _draw_lines(labels, 1 + style.count, style.lines, rng)
    for index in range(style.glyphs):
        _draw_glyphs(labels, 1 + style.count + style.lines + index, rng)
    centres = np.full((total, 2), side / 2.0)
    radii = np.full(total, side / 2.0)
    centres[1 : style.count + 1], radii[1 : style.count + 1] = centre, radius
    return labels, centres, radii


def _colours(total: int, style: LeafStyle, rng: np.random.Generator) -> np.ndarray:
    """Colours ``[total, 3]``: widely spread in lightness, near one of the scene's few hues, as in photographs."""
    # Opponent axes (blue-yellow, red-green) of natural images: the first varies about twice as much (Ruderman 1998).
    opponent = np.array([[0.5, 0.3, -0.8], [0.7, -0.5, 0.1]])
    # The world is warmer than grey on average, and its strong blues are mostly sky: the mean leans to yellow.
    themes = rng.normal([0.4, 0.0], 1.0, (int(rng.integers(1, 6)), 2)) * [2.0 * style.chroma, style.chroma]
    position = themes[rng.integers(len(themes), size=total)] + rng.normal(0.0, 0.35 * style.chroma, (total, 2))
    lightness = rng.uniform(0.05, 0.95) * 0.4 + 0.6 * rng.random(total)
    return lightness[:, None] * np.exp(np.clip(position, -0.9, 1.2) @ opponent)


def shade_labels(labels: np.ndarray, centres: np.ndarray, radii: np.ndarray, style: LeafStyle, rng: np.random.Generator) -> np.ndarray:
    """Fill a label map with shaded, textured colours: float32 ``[side, side, 3]``, nominally in 0..1 but not clipped.

    Every label has a linear and a radial shading, and its own mixture of two noise textures and a grating (sine to square wave, some
    crossed to a checker, some bent by the noise).
    """
    side, total = labels.shape[0], len(radii)
    index = labels.astype(np.intp)

    def draw(values: np.ndarray) -> np.ndarray:
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
    fx, fy = draw(frequency * np.cos(direction)), draw(frequency * np.sin(direction))
    bend = draw(np.where(rng.random(total) < 0.4, rng.uniform(0.0, 1.5, total), 0.0)) * coarse
    sharp = draw(np.exp(rng.uniform(0.0, 2.5, total)))
    wave = np.clip(sharp * np.sin(fx * x + fy * y + bend + draw(phase)), -1.0, 1.0)
    crossed = draw(rng.random(total) < 0.3)
    wave *= 1.0 - crossed + crossed * np.clip(sharp * np.sin(fx * y - fy * x + bend), -1.0, 1.0)

    kinds = rng.random((3, total)) ** 2 * (rng.random((3, total)) < np.array([0.35, 0.6, 0.6])[:, None])
    texture = draw(0.12 * style.contrast * kinds[0]) * wave + draw(0.12 * style.contrast * kinds[1]) * fine
    u, v = (x - draw(centres[:, 0])) / draw(radii), (y - draw(centres[:, 1])) / draw(radii)
    slope = rng.normal(0.0, 0.12 * style.shading, (2, total))
    bulge = rng.normal(0.0, 0.08 * style.shading, total)
    light = draw(slope[0]) * u + draw(slope[1]) * v + draw(bulge) * np.minimum(u * u + v * v, 4.0) + texture

    colours = _colours(total, style, rng)
    # Texture moves mostly lightness; the coarse noise also moves the hue.
    tint = 1.0 + rng.normal(0.0, 0.25, (total, 3))
    drift = 0.15 * style.contrast * kinds[2][:, None] * (1.0 + rng.normal(0.0, 0.3, (total, 3)))
    image = colours.astype(np.float32)[index]
    image += tint.astype(np.float32)[index] * light[..., None]
    image += drift.astype(np.float32)[index] * coarse[..., None]
    return image
