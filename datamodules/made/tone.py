"""Random tone: gamma, contrast, brightness, saturation and tint, from dark to bright and from pale to vivid."""

import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def smoothstep(x: np.ndarray) -> np.ndarray:
    """``3 x^2 - 2 x^3`` of values in 0..1: steep in the middle, flat at both ends."""
    return x * x * (3.0 - 2.0 * x)


def random_tone(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give a non-negative float image ``[H, W, 3]`` a random tone and return it as uint8.

    The image is first stretched to its own range, so that the tone that comes out depends on the draw and not on what was painted.
    About one in seven images is dark by nature, one in ten bright, some are pale and some grey. Few photographs reach from black to
    white: of two dozen, the 99th percentile of lightness was 0.7 to 1, for half of them below 0.9, and the 1st percentile of the darkest
    channel up to 0.15. A set of images that all do would teach that a dull photograph is a fault; one far duller than photographs,
    that haze cannot be told from paleness. (ours)
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
    # The gamma that brings the median to the drawn middle grey, within bounds that keep it a plausible tone curve.
    median = float(np.clip(np.median(image[::2, ::2]), 0.02, 0.98))
    gamma = float(np.clip(np.log(middle) / np.log(median), 0.35, 3.0))
    image = np.power(image, gamma, dtype=np.float32)
    # An S-curve, as cameras and people lay over their pictures.
    image += np.float32(rng.uniform(0.0, 1.2)) * (smoothstep(np.minimum(image, 1.0)) - np.minimum(image, 1.0))
    image = black + (white - black) * image
    grey = (image @ _LUMA)[..., None]
    saturation = float(rng.choice([0.0, rng.uniform(0.3, 1.0), 1.0, rng.uniform(1.0, 1.9)], p=[0.07, 0.2, 0.28, 0.45]))
    tint = np.exp(rng.normal(0.0, 0.05, 3)).astype(np.float32) if saturation > 0.0 else np.ones(3, np.float32)
    image = (grey + saturation * (image - grey)) * tint
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
