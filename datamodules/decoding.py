"""Decoding of a stored sample into two aligned uint8 images, or latents, and its degradations."""

import json
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from datamodules.shards import RawSample, ShardError
from datamodules.shards.latents import unpack_latents
from mimdit.core.batch import ATOMS


class BadSampleError(ValueError):
    """A sample that cannot be used: missing parts, an undecodable image, different sizes; the message names shard and key."""


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
    """A sample of cached latents: ``lq`` and ``gt`` are stored means and log-variances ``[2C, h, w]``; otherwise as `Pair`."""

    key: str
    group: str
    lq: torch.Tensor
    gt: torch.Tensor
    degradation: np.ndarray


def decode_image(data: bytes | None, name: str) -> np.ndarray:
    """Decode an image to uint8 RGB ``[H, W, 3]``, upright by its EXIF orientation; the first bytes determine the format.

    Gray and palette images become RGB, 16 bits become 8, transparency is dropped.

    Raises:
        BadSampleError: There are no bytes or they are not a complete image; the message begins with ``name``.
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
        ShardError: It holds only latents, but the index of its folder lists images.
    """
    group, degradation = _labels(sample)
    if sample.latents and not (sample.lq or sample.gt):
        raise ShardError(f"{sample.place} holds latents and no images, but its folder's index.json lists images. Do not mix them.")
    lq = decode_image(sample.lq, f"The lq image of {sample.place}")
    gt = decode_image(sample.gt, f"The gt image of {sample.place}")
    check_sizes(lq, gt, f"The images of {sample.place}")
    return Pair(sample.key, group, lq, gt, degradation)


def decode_latents(sample: RawSample, shape: tuple[int, int, int]) -> LatentPair:
    """Read the latents of a stored sample, whose tensors must have ``shape``.

    Raises:
        BadSampleError: The json or the latents are damaged, or of another shape.
        ShardError: It holds no latents, but the index of its folder lists latents.
    """
    group, degradation = _labels(sample)
    if sample.latents is None:
        raise ShardError(f"{sample.place} holds no latents, but its folder's index.json lists latents. Do not mix them.")
    try:
        lq, gt = unpack_latents(sample.latents)
    except ValueError as error:
        raise BadSampleError(f"The latents of {sample.place} cannot be read: {error}.") from error
    if tuple(lq.shape) != shape:
        raise BadSampleError(f"The latents of {sample.place} are {list(lq.shape)}, but {list(shape)} in its folder's index.json.")
    return LatentPair(sample.key, group, lq, gt, degradation)


def _labels(sample: RawSample) -> tuple[str, np.ndarray]:
    """Return the group of a stored sample and its degradations, multi-hot ``[A]``."""
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
    """Check that two images have one size.

    Raises:
        BadSampleError: They differ; the message begins with ``name``.
    """
    if lq.shape != gt.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (lq, gt)]
        raise BadSampleError(f"{name} differ in size: lq is {sizes[0]}, gt is {sizes[1]} (width x height).")
