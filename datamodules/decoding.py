"""From a stored sample to two aligned uint8 images and what degraded the one."""

import json
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from datamodules.latents.packing import unpack_latents
from datamodules.shards import RawSample, ShardError
from mimdit.core.batch import ATOMS


class BadSampleError(ValueError):
    """A sample that cannot be used: missing parts, an undecodable image, sizes that differ; names shard and key."""


@dataclass(frozen=True)
class Pair:
    """A decoded sample: ``lq`` and ``gt`` are uint8 RGB ``[H, W, 3]`` of one size, ``degradation`` a float32 multi-hot ``[A]``."""

    key: str
    group: str
    lq: np.ndarray
    gt: np.ndarray
    degradation: np.ndarray


@dataclass(frozen=True)
class LatentPair:
    """A sample of cached latents: ``lq`` and ``gt`` are means and log-variances ``[2C, h, w]`` as they are stored, else as `Pair`."""

    key: str
    group: str
    lq: torch.Tensor
    gt: torch.Tensor
    degradation: np.ndarray


def decode_image(data: bytes | None, name: str) -> np.ndarray:
    """Decode an image to uint8 RGB ``[H, W, 3]``; the format is told by the first bytes, the EXIF orientation is applied.

    Grey and palette images become RGB, 16 bits become 8, transparency is dropped.

    Raises:
        BadSampleError: There are no bytes or they are not a whole image; ``name`` says of what.
    """
    if not data:
        raise BadSampleError(f"{name} is missing.")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise BadSampleError(f"{name} cannot be decoded ({error}).") from error
    if image is None:
        raise BadSampleError(f"{name} cannot be decoded: its {len(data)} bytes are not a whole image.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_pair(sample: RawSample) -> Pair:
    """Decode a stored sample.

    Raises:
        BadSampleError: A part is missing, cannot be decoded or names an unknown atom, or the two images differ in size.
        ShardError: It holds latents alone, which the index of its folder should have said.
    """
    group, degradation = _labels(sample)
    if sample.latents and not (sample.lq or sample.gt):
        raise ShardError(f"{sample.place} holds latents and no images, but its folder's index.json tells of images. Do not mix them.")
    lq = decode_image(sample.lq, f"The lq image of {sample.place}")
    gt = decode_image(sample.gt, f"The gt image of {sample.place}")
    check_sizes(lq, gt, f"The images of {sample.place}")
    return Pair(sample.key, group, lq, gt, degradation)


def decode_latents(sample: RawSample, shape: tuple[int, int, int]) -> LatentPair:
    """Read the latents of a stored sample, whose tensors must be of ``shape``.

    Raises:
        BadSampleError: The json or the latents are damaged, or of another shape.
        ShardError: It holds images alone, which the index of its folder should have said.
    """
    group, degradation = _labels(sample)
    if sample.latents is None:
        raise ShardError(f"{sample.place} holds no latents, but its folder's index.json tells of latents. Do not mix them.")
    try:
        lq, gt = unpack_latents(sample.latents)
    except ValueError as error:
        raise BadSampleError(f"The latents of {sample.place} cannot be read: {error}.") from error
    if tuple(lq.shape) != shape:
        raise BadSampleError(f"The latents of {sample.place} are {list(lq.shape)}, but its folder's index.json tells of {list(shape)}.")
    return LatentPair(sample.key, group, lq, gt, degradation)


def _labels(sample: RawSample) -> tuple[str, np.ndarray]:
    """The group of a stored sample and its degradations, multi-hot ``[A]``."""
    if sample.problem:
        raise BadSampleError(sample.problem)
    if not sample.json:
        raise BadSampleError(f"The json of {sample.place} is missing.")
    try:
        fields = json.loads(sample.json)
        group, atoms = str(fields["group"]), [str(atom) for atom in fields["atoms"]]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise BadSampleError(f"The json of {sample.place} is not valid ({type(error).__name__}: {error}).") from error
    if unknown := set(atoms) - set(ATOMS):
        raise BadSampleError(f"The json of {sample.place} names unknown atoms {sorted(unknown)}; known are {list(ATOMS)}.")
    return group, np.array([atom in atoms for atom in ATOMS], np.float32)


def check_sizes(lq: np.ndarray, gt: np.ndarray, name: str) -> None:
    """Check that two images are of one size.

    Raises:
        BadSampleError: They are not; ``name`` says which they are.
    """
    if lq.shape != gt.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (lq, gt)]
        raise BadSampleError(f"{name} differ in size: lq is {sizes[0]}, gt is {sizes[1]} (width x height).")
