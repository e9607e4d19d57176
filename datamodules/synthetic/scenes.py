"""Procedural clean images: what the restorer is trained on where no photographs may be used."""

import cv2
import numpy as np

from datamodules.spectrum import power_law_noise
from datamodules.synthetic.dead_leaves import LeafStyle, paint_labels, shade_labels
from datamodules.synthetic.tone import random_tone

_OVERSAMPLING = 2
_KINDS = {"dense": 0.35, "objects": 0.35, "smooth": 0.08, "texture": 0.12, "text": 0.1}
"""Kinds of scenes and how often they come."""

_STREAM = 0x5CE4E
"""Keeps the random stream of the scenes apart from that of the degradations for equal seeds."""


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
    """Blur what lies farther than a random leaf, keeping the nearer leaves sharp."""
    near = (labels > rng.uniform(0.2, 1.0) * style.count).astype(np.uint8)
    sigma = float(image.shape[0] / 256 * np.exp(rng.uniform(0.7, 2.3)))
    # Normalised by the blurred mask, so that the sharp leaves do not bleed into the background.
    far = (1 - near).astype(np.float32)
    weight = cv2.GaussianBlur(far, (0, 0), sigma) + 1e-3
    blurred = cv2.GaussianBlur(image * far[..., None], (0, 0), sigma) / weight[..., None]
    return np.where(near[..., None] > 0, image, blurred)


def make_scene(size: int, *, seed: int) -> np.ndarray:
    """Make a clean image, uint8 RGB ``[size, size, 3]``; equal arguments give equal bytes.

    A dead-leaves image (densely covered, a few objects, smooth, textured, or with text), drawn at twice the size and averaged down for
    anti-aliased edges, sometimes with an unfocused background, under a smooth light, with a random final tone: the set holds images
    that are dark, bright, pale or saturated by nature, so that a model does not learn that a dark photograph is a fault. (ours, after
    Lee, Mumford and Huang 2001; Achddou et al. 2021 trained restoration models on such images)

    Raises:
        ValueError: ``size`` is below 16 pixels.
    """
    if size < 16:
        raise ValueError(f"a scene needs a size of at least 16 pixels, not {size}")
    rng = np.random.default_rng([_STREAM, seed])
    side = size * _OVERSAMPLING
    style = _style(str(rng.choice(list(_KINDS), p=list(_KINDS.values()))), rng)
    labels, centres, radii = paint_labels(side, style, rng)
    image = shade_labels(labels, centres, radii, style, rng)
    if rng.random() < 0.3:
        image = _defocus_background(image, labels, style, rng)
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 0.7)))
    light = power_law_noise(size, size, 2.0, rng) * float(rng.uniform(0.0, 0.25))
    return random_tone(np.maximum(image, 0.0) * np.exp(light)[..., None], rng)
