"""Random tone: gamma, contrast, brightness, saturation and tint, from dark to bright and from pale to vivid."""

import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def random_tone(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give a non-negative float image ``[H, W, 3]`` a random tone and return it as uint8. (ours)

    The image is first stretched to its own range, so that the tone that comes out depends on the draw and not on what was painted.
    About two in ten images are dark by nature, one is bright, some are pale and some grey. Few photographs reach from black to white: the
    1st and 99th percentiles of lightness of two dozen were 0 to 0.33 (half of them below 0.06) and 0.64 to 1, evenly. A set of images
    that all do would teach that a dull photograph is a fault.
    """
    low, high = np.percentile(image[::2, ::2], [1.0, 99.0])
    image = np.clip((image - low) / max(high - low, 0.05), 0.0, 1.15).astype(np.float32)
    mood = rng.choice(["plain", "dark", "bright", "pale"], p=[0.69, 0.18, 0.1, 0.03])
    middle = float(rng.uniform(*{"plain": (0.25, 0.6), "dark": (0.05, 0.22), "bright": (0.55, 0.85), "pale": (0.2, 0.8)}[mood]))
    black, white = float(np.clip(rng.exponential(0.1) - 0.04, -0.04, 0.35)), float(rng.uniform(0.65, 1.2))
    if mood == "dark":
        black, white = np.array([black, white]) * rng.uniform(0.3, 1.0)
    elif mood == "pale":
        black, white = sorted(rng.uniform(0.1, 0.85, 2).tolist())
        white = max(white, black + 0.25)
    # The gamma that brings the median to the drawn middle grey, within bounds that keep it a plausible tone curve.
    median = float(np.clip(np.median(image[::2, ::2]), 0.02, 0.98))
    gamma = float(np.clip(np.log(middle) / np.log(median), 0.35, 3.0))
    image = black + (white - black) * np.power(image, gamma, dtype=np.float32)
    grey = (image @ _LUMA)[..., None]
    saturation = float(rng.choice([0.0, rng.uniform(0.3, 1.0), 1.0, rng.uniform(1.0, 2.2)], p=[0.07, 0.2, 0.28, 0.45]))
    tint = np.exp(rng.normal(0.0, 0.05, 3)).astype(np.float32) if saturation > 0.0 else np.ones(3, np.float32)
    image = (grey + saturation * (image - grey)) * tint
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
