"""Decoding, against Pillow."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from datamodules.decoding import BadSampleError, decode_image, decode_pair
from datamodules.shards import RawSample
from mimdit.core.batch import ATOMS
from tests.datamodules.made_shards import encode, made_image

FIELDS = {"group": "09Lowlight_Haze", "atoms": ["haze", "lowlight"]}
SAMPLE = RawSample("k/1", "s.tar", encode(made_image("a")), encode(made_image("b")), json.dumps(FIELDS).encode())


def saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_a_pair_comes_back_with_its_atoms():
    pair = decode_pair(SAMPLE)
    assert np.array_equal(pair.lq, made_image("a")) and np.array_equal(pair.gt, made_image("b"))
    assert {atom for atom, value in zip(ATOMS, pair.degradation, strict=True) if value} == {"haze", "lowlight"}
    assert pair.group == "09Lowlight_Haze"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    ramp = np.add.outer(np.arange(16) * 3, np.arange(32) * 5).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp, ramp.max() - ramp, ramp // 2], -1))
    exif = image.getexif()
    exif[0x112] = orientation
    data = saved(image, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    decoded = decode_image(data, "it")
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).max() <= 2


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_other_modes_become_rgb(mode):
    image = Image.fromarray(made_image("c")).convert(mode)
    assert np.array_equal(decode_image(saved(image, "PNG"), "it"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_an_image_cut_short_is_not_decoded(suffix, kept):
    data = encode(made_image("d", 64, 64), suffix)
    with pytest.raises(BadSampleError, match="the image"):
        decode_image(data[: int(kept * len(data))], "the image")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"gt": None}, "gt image of k/1 in s.tar is missing"),
        ({"lq": b"no image"}, "lq image of k/1 in s.tar cannot be decoded"),
        ({"json": None}, "json of k/1 in s.tar is missing"),
        ({"json": b"{"}, "json of k/1 in s.tar is not valid"),
        ({"json": b'{"group": "x", "atoms": ["fog"]}'}, "k/1 in s.tar names unknown atoms .'fog'."),
        ({"gt": encode(made_image("b", 20, 30))}, "k/1 in s.tar differ in size: lq is 24x20, gt is 30x20"),
    ],
)
def test_what_is_wrong_is_said_with_shard_and_key(change, message):
    with pytest.raises(BadSampleError, match=message):
        decode_pair(dataclasses.replace(SAMPLE, **change))
