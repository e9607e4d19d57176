"""Random tone: gamma, contrast, brightness, saturation and tint, from dark to bright and from pale to vivid."""

from dataclasses import dataclass

import numpy as np

from mimdit.core.srgb import LUMA, to_linear, to_srgb


def smoothstep(x: np.ndarray) -> np.ndarray:
    """Return ``3 x^2 - 2 x^3`` of values in 0..1: steep in the middle, flat at both ends."""
    return x * x * (3.0 - 2.0 * x)


def random_tone(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give a non-negative float image ``[H, W, 3]`` a random tone, and return it as uint8.

    The image is first stretched to its own range, so that the result depends on the random tone and not on the painted colors. About one in
    seven images is dark by nature, one in ten bright, some are pale and some gray. Few photographs reach from black to white: of two dozen,
    the 99th percentile of lightness was 0.7 to 1, for half of them below 0.9, and the 1st percentile of the darkest channel up to 0.15. If
    all images did, a model would learn that a dull photograph is a defect; if they were far duller than photographs, it could not
    distinguish haze from paleness. Not in the paper.
    """
    low, high = np.percentile(image[::2, ::2], [1.0, 99.0])
    image = np.clip((image - low) / max(high - low, 0.05), 0.0, 1.15).astype(np.float32)
    mood = rng.choice(["plain", "dark", "bright", "pale"], p=[0.73, 0.15, 0.1, 0.02])
    middle = float(rng.uniform(*{"plain": (0.25, 0.6), "dark": (0.05, 0.22), "bright": (0.55, 0.85), "pale": (0.2, 0.8)}[mood]))
    black, white = float(rng.triangular(-0.05, 0.03, 0.2)), float(rng.uniform(0.62, 1.3))
    if mood == "dark":
        black, white = np.array([black, white]) * rng.uniform(0.3, 1.0)
    elif mood == "pale":
        black, white = sorted(rng.uniform(0.1, 0.85, 2).tolist())
        white = max(white, black + 0.25)
    # The gamma that maps the median to the drawn middle gray, within bounds that keep it a plausible tone curve.
    median = float(np.clip(np.median(image[::2, ::2]), 0.02, 0.98))
    gamma = float(np.clip(np.log(middle) / np.log(median), 0.35, 3.0))
    image = np.power(image, gamma, dtype=np.float32)
    # An S-curve, as in the processing of cameras and photographers.
    image += np.float32(rng.uniform(0.0, 1.2)) * (smoothstep(np.minimum(image, 1.0)) - np.minimum(image, 1.0))
    image = black + (white - black) * image
    gray = (image @ LUMA)[..., None]
    saturation = float(rng.choice([0.0, rng.uniform(0.3, 1.0), 1.0, rng.uniform(1.0, 1.9)], p=[0.07, 0.2, 0.28, 0.45]))
    tint = np.exp(rng.normal(0.0, 0.05, 3)).astype(np.float32) if saturation > 0.0 else np.ones(3, np.float32)
    image = (gray + saturation * (image - gray)) * tint
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


@dataclass(frozen=True)
class Mood:
    """Ranges of a natural tone: exposure in stops; contrast around the mean; black, white, saturation in 0..1; deviation of the tint."""

    share: float
    exposure: tuple[float, float]
    contrast: tuple[float, float]
    black: tuple[float, float]
    white: tuple[float, float]
    saturation: tuple[float, float]
    tint: float


MOODS = {
    "plain": Mood(0.30, (-0.5, 0.5), (0.8, 1.2), (0.0, 0.03), (0.9, 1.0), (0.7, 1.3), 0.02),
    "dark": Mood(0.20, (-3.0, -1.0), (0.8, 1.2), (0.0, 0.02), (0.8, 1.0), (0.5, 1.1), 0.03),
    "dull": Mood(0.20, (-0.7, 0.4), (0.5, 0.9), (0.03, 0.15), (0.6, 0.85), (0.2, 0.8), 0.03),
    "foggy": Mood(0.15, (0.0, 0.7), (0.4, 0.8), (0.2, 0.45), (0.8, 1.0), (0.2, 0.7), 0.02),
    "tinted": Mood(0.15, (-0.7, 0.4), (0.8, 1.2), (0.0, 0.08), (0.8, 1.0), (0.6, 1.3), 0.12),
}
"""Natural tones of photographs, with their probabilities. Not in the paper."""


def retone(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give a photograph, float32 RGB ``[H, W, 3]`` in 0..1, one of the `MOODS`; return it in the same form.

    Unlike `random_tone` it never stretches, so smooth images show no bands. Fewer stops remove linear light; more stops lift the shadows
    and keep the highlights. Not in the paper.
    """
    mood = MOODS[str(rng.choice(list(MOODS), p=[mood.share for mood in MOODS.values()]))]
    draws = (rng.uniform(*limits) for limits in (mood.exposure, mood.contrast, mood.black, mood.white, mood.saturation))
    exposure, contrast, black, white, saturation = (np.float32(value) for value in draws)
    light = to_linear(image)
    gain = np.exp2(exposure)
    image = to_srgb(light * gain if gain <= 1.0 else 1.0 - np.power(1.0 - np.minimum(light, 1.0), gain, dtype=np.float32))
    mean = image.mean(dtype=np.float32)
    image = black + (white - black) * np.clip(mean + contrast * (image - mean), 0.0, 1.0)
    gray = (image * LUMA).sum(axis=2, keepdims=True)
    tint = np.exp(rng.normal(0.0, mood.tint, 3)).astype(np.float32)
    return np.clip((gray + saturation * (image - gray)) * (tint / (tint * LUMA).sum()), 0.0, 1.0)
