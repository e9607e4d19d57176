"""What is told of an encoded image, against what OpenCV, the reader's decoder, makes of it."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules.conversion.images import BadImageError, decode_upright, inspect_image, suffix_of
from datamodules.rng import named_rng

FORMATS = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP"}
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
 tiff:Orientation="6" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"/></rdf:RDF></x:xmpmeta>"""


def encoded(suffix: str, orientation: int | None = None, *, width: int = 160, height: int = 120, **options) -> bytes:
    """A smooth image, which every format compresses."""
    noise = named_rng("image").integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    picture = Image.fromarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, FORMATS[suffix], **options)
    return buffer.getvalue()


@pytest.mark.parametrize("check", ["decode", "header"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_the_first_bytes_tell_the_format(suffix, check):
    facts = inspect_image(encoded(suffix), check)
    assert (facts.suffix, facts.width, facts.height, facts.orientation) == (suffix, 160, 120, 1)


def test_a_jpeg_with_a_second_picture_is_a_jpeg():
    buffer = io.BytesIO()
    pictures = [Image.open(io.BytesIO(encoded("png"))) for _ in range(2)]
    pictures[0].save(buffer, "MPO", save_all=True, append_images=pictures[1:])
    assert Image.open(buffer).format == "MPO"
    assert inspect_image(buffer.getvalue(), "decode").suffix == "jpg"


@pytest.mark.parametrize("check", ["decode", "header"])
@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_width_and_height_are_those_of_the_decoded_image(suffix, orientation, check):
    data = encoded(suffix, orientation)
    height, width = decode_upright(data).shape[:2]
    facts = inspect_image(data, check)
    assert (facts.width, facts.height) == (width, height)
    assert facts.orientation == (orientation if 1 <= orientation <= 8 else 1)
    if suffix == "jpg":
        assert (width < height) == (orientation in range(5, 9))


@pytest.mark.parametrize("check", ["decode", "header"])
def test_an_orientation_that_only_xmp_tells_does_not_count(check):
    data = encoded("jpg", xmp=XMP)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    assert decode_upright(data).shape[:2] == (120, 160)
    assert (inspect_image(data, check).width, inspect_image(data, check).orientation) == (160, 1)


@pytest.mark.parametrize("check", ["decode", "header"])
def test_a_damaged_exif_block_does_not_cost_the_image(check):
    facts = inspect_image(encoded("jpg", exif=b"Exif\0\0not a TIFF header"), check)
    assert (facts.width, facts.orientation) == (160, 1)


@pytest.mark.parametrize("cut", [1, 2, 4, 12, 13, 50, 1000, 0.5])
@pytest.mark.parametrize("suffix, options", [("png", {}), ("jpg", {}), ("jpg", {"progressive": True}), ("bmp", {}), ("webp", {})], ids=str)
def test_an_image_that_was_cut_short_is_rejected(suffix, options, cut):
    data = encoded(suffix, **options)
    with pytest.raises(BadImageError):
        inspect_image(data[: -cut if cut >= 1 else len(data) // 2], "decode")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"quality": 100}], ids=str)
def test_a_jpeg_whose_rest_is_zeros_is_rejected(options):
    small = encoded("jpg", width=32, height=24)
    data = encoded("jpg", **options)
    data = data[:2] + b"\xff\xe5" + struct.pack(">H", len(small) + 2) + small + data[2:]  # a thumbnail has an end marker of its own
    assert inspect_image(data, "decode").width == 160
    for kept in (len(data) // 2, len(data) - 2):
        with pytest.raises(BadImageError, match="cut short|damaged"):
            inspect_image(data[:kept] + bytes(len(data) - kept), "decode")


def test_every_changed_byte_of_a_png_is_noticed():
    data = encoded("png", width=64, height=48)
    rng = named_rng("flips")
    for place in rng.choice(len(data), 100, replace=False):
        changed = bytearray(data)
        changed[place] ^= rng.integers(1, 256)
        with pytest.raises(BadImageError):
            inspect_image(bytes(changed), "decode")


def test_a_header_alone_does_not_show_what_is_missing_behind_it():
    data = encoded("jpg")
    assert inspect_image(data[: len(data) // 2], "header") == inspect_image(data, "decode")


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(100), b"<html>no such file</html>"])
def test_other_formats_are_named_by_their_first_bytes(data):
    with pytest.raises(BadImageError, match=data[:8].hex(" ") or "nothing"):
        suffix_of(data)


@pytest.mark.parametrize("start", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"RIFF....WEBP"])
def test_reasons_are_the_same_in_every_run(start):
    data, reasons = start + bytes(50), []
    for _ in range(2):
        with pytest.raises(BadImageError) as caught:
            inspect_image(data, "decode")
        reasons.append(str(caught.value))
    assert reasons[0] == reasons[1] and "0x" not in reasons[0]


def test_an_announced_size_beyond_reason_is_rejected():
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">II5B", 60000, 60000, 8, 2, 0, 0, 0))
    with pytest.raises(BadImageError, match="decompression bomb"):
        inspect_image(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""), "decode")
