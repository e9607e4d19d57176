"""Real photographs for validation and test: those that scikit-image installs beside its code."""

from pathlib import Path

import cv2
import numpy as np
import skimage.data

TEST = ("astronaut", "chelsea", "coffee", "rocket")
"""Photographs that are looked at in the test only."""

VALIDATION = ("motorcycle_left", "camera", "grass", "coins")
"""Photographs that may guide choices while training."""

_FILES = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
    "motorcycle_left": "motorcycle_left.png",
    "camera": "camera.png",
    "grass": "grass.png",
    "coins": "coins.png",
}


def load_photograph(name: str) -> np.ndarray:
    """Read one of the photographs of `TEST` and `VALIDATION` as uint8 RGB ``[H, W, 3]``; grey ones get three equal channels.

    Of scikit-image's files, hubble, retina and ihc are left out because they have no defined exposure (a model cannot know how bright a
    galaxy or a stain should be), and motorcycle_right because it shows what motorcycle_left shows. Nothing is downloaded.

    Raises:
        ValueError: ``name`` is none of them.
        FileNotFoundError: this scikit-image came without the file.
    """
    if name not in _FILES:
        raise ValueError(f"no photograph is called {name!r}: choose one of {', '.join(_FILES)}")
    path = Path(skimage.data.__file__).parent / _FILES[name]
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the installed scikit-image lacks its sample images, reinstall it from a wheel")
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(image[..., ::-1])


def photograph_crop(name: str, size: int = 256) -> np.ndarray:
    """The middle ``[size, size, 3]`` of a photograph whose shorter side was first reduced to ``size`` by area averaging.

    So the crop shows the subject and has sharp pixels, whatever the camera's resolution.

    Raises:
        ValueError: the photograph is smaller than ``size``: enlarging it would invent blur.
    """
    return middle_crop(load_photograph(name), size, name)


def middle_crop(image: np.ndarray, size: int, name: str) -> np.ndarray:
    """Return the middle ``[size, size, 3]`` of ``[H, W, 3]``, uint8, reduced as `photograph_crop` says; ``name`` is for the error.

    Raises:
        ValueError: the image is smaller than ``size``.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    if short < size:
        raise ValueError(f"{name} is {width}x{height}, too small for a crop of {size}: ask for at most {short}")
    reduced = (max(size, round(width * size / short)), max(size, round(height * size / short)))
    image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])
