"""GIF, JPEG 2000 and JPEG XL are read, ISO media files by all their brands, and other kinds of images are named."""

import io
import struct
import uuid

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from datamodules.images import UnreadableImageError, encode_photo, format_of, read_photo, read_size
from datamodules.images.formats import AVIF, HEAD, HEIF, PNG, looks_like_image
from datamodules.images.reading import read_upright_size
from tests.datamodules.images.made_images import SRGB, encoded, exif, picture, upright

PACKET = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'


def read(folder, data, name="photo"):
    (folder / name).write_bytes(data)
    return read_photo(folder / name)


def box(name, content):
    return struct.pack(">I", len(content) + 8) + name + content


def test_of_a_gif_the_first_frame_is_read_with_its_transparency_and_comment(tmp_path):
    first = Image.fromarray(picture()).quantize(16, dither=Image.Dither.NONE)
    out = io.BytesIO()
    frames = [Image.new("P", (40, 24))]
    first.save(out, "GIF", save_all=True, append_images=frames, transparency=3, comment=b"mine", duration=10)
    photo = read(tmp_path, out.getvalue())
    expected = np.asarray(Image.open(out).convert("RGBA"))
    assert np.array_equal(photo.pixels, expected[:, :, :3]) and np.array_equal(photo.alpha, expected[:, :, 3])
    assert photo.alpha.min() == 0 and photo.text == (("Comment", "mine"),)
    assert photo.remarks == ("only the first of its 2 frames is kept",) and read_size(tmp_path / "photo") == (40, 24)
    assert read(tmp_path, encode_photo(photo, photo.pixels, PNG), "again").text == photo.text


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("container", ["jp2", "j2k"])
def test_jpeg_2000_keeps_its_depth(tmp_path, dtype, channels, container):
    pixels = picture(64, 80, channels=channels, dtype=dtype)
    stored = pixels if channels == 3 else pixels[:, :, 0]
    data = imagecodecs.jpeg2k_encode(stored, level=0, reversible=True, codecformat=container)
    photo = read(tmp_path, data)
    assert photo.pixels.dtype == dtype and np.array_equal(photo.pixels, pixels) and photo.alpha is None
    assert read_size(tmp_path / "photo") == (80, 64)
    with pytest.raises(UnreadableImageError, match="JPEG2000 data is damaged|was cut short"):
        read(tmp_path, data[:-40])


def test_jpeg_2000_brings_its_metadata(tmp_path):
    out = io.BytesIO()
    Image.fromarray(picture(64, 80)).save(out, "JPEG2000", irreversible=False)
    xmp = box(b"uuid", uuid.UUID("be7acfcb-97a9-42e8-9c71-999491e3afac").bytes + PACKET)
    data = out.getvalue() + xmp + box(b"uuid", b"JpgTiffExif->JP2" + exif().tobytes()[6:])
    colors = data.index(b"colr") - 4
    profile = box(b"colr", b"\2\0\0" + SRGB)
    header = data.index(b"jp2h") - 4
    size = int.from_bytes(data[header : header + 4], "big") - 15 + len(profile)
    data = data[:header] + struct.pack(">I", size) + data[header + 4 : colors] + profile + data[colors + 15 :]
    photo = read(tmp_path, data)
    assert np.array_equal(photo.pixels, picture(64, 80)) and photo.icc == SRGB and photo.xmp == PACKET and b"Maker" in photo.exif


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_upright_size_of_jpeg_2000_is_that_of_the_photo(tmp_path, orientation):
    data = encoded("JPEG2000") + box(b"uuid", b"JpgTiffExif->JP2" + exif(orientation).tobytes()[6:])
    size = read(tmp_path, data).pixels.shape[1::-1]
    assert size == ((24, 40) if orientation == 6 else (40, 24)) == read_upright_size(tmp_path / "photo")


def test_the_upright_size_of_jpeg_xl_is_that_of_the_photo(tmp_path):
    pytest.importorskip("pillow_jxl")
    size = read(tmp_path, encoded("JXL", exif=exif(6).tobytes())).pixels.shape[1::-1]
    assert read_upright_size(tmp_path / "photo") == size


def test_jpeg_2000_of_twelve_bits_is_named(tmp_path):
    data = imagecodecs.jpeg2k_encode(picture(64, 80, channels=1, dtype=np.uint16)[:, :, 0] >> 4, level=0, bitspersample=12)
    with pytest.raises(UnreadableImageError, match="its channels have 12 bits"):
        read(tmp_path, data)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_jpeg_xl_keeps_its_depth_and_alpha(tmp_path, dtype, channels):
    pytest.importorskip("pillow_jxl")
    pixels = picture(channels=channels, dtype=dtype)
    data = imagecodecs.jpegxl_encode(pixels[:, :, 0] if channels == 1 else pixels, lossless=True)
    photo = read(tmp_path, data)
    colors = channels - (channels % 2 == 0)
    assert photo.pixels.dtype == dtype and np.array_equal(photo.pixels, pixels[:, :, :colors])
    assert channels % 2 or np.array_equal(photo.alpha, pixels[:, :, -1])
    with pytest.raises(UnreadableImageError, match="JXL data is damaged"):
        read(tmp_path, data[: len(data) // 2])


def test_jpeg_xl_brings_its_metadata(tmp_path):
    pytest.importorskip("pillow_jxl")
    out = io.BytesIO()
    Image.fromarray(picture()).save(out, "JXL", lossless=True, exif=exif().tobytes(), icc_profile=SRGB, xmp=PACKET)
    photo = read(tmp_path, out.getvalue())
    assert np.array_equal(photo.pixels, picture()) and photo.xmp == PACKET and b"Maker" in photo.exif and photo.icc
    zipped = box(b"brob", b"xml " + imagecodecs.brotli_encode(PACKET))
    assert read(tmp_path, out.getvalue().replace(box(b"xml ", PACKET), zipped)).xmp == PACKET


def test_jpeg_xl_without_its_reader_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.images.formats.has_jxl", lambda: False)
    with pytest.raises(UnreadableImageError, match="pip install pillow-jxl-plugin"):
        read(tmp_path, imagecodecs.jpegxl_encode(picture()))


def test_the_brands_tell_avif_from_heic(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.images.formats.has_heif", lambda: True)
    data = bytearray(encoded("AVIF"))
    data[8:12] = b"mif1"
    assert b"avif" in data[16:32] and np.array_equal(read(tmp_path, data).pixels, read(tmp_path, encoded("AVIF")).pixels)
    for brands, kind in {
        b"mif1\0\0\0\0mif1heic": HEIF,
        b"mif1\0\0\0\0mif1miafheixavif": AVIF,
        b"heic\0\0\0\0mif1avif": HEIF,
        b"avif\0\0\0\0mif1heic": AVIF,
        b"mif1\0\0\0\0mif1": HEIF,
        b"msf1\0\0\0\0avis": AVIF,
        b"mif1\0\0\0\0" + b"mif1" * 40 + b"avif": AVIF,
    }.items():
        assert format_of(tmp_path / "any", (box(b"ftyp", brands) + b"avif")[:HEAD]) == kind
    with pytest.raises(UnreadableImageError):
        format_of(tmp_path / "video.mp4", box(b"ftyp", b"isom\0\0\0\0avc1"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "WEBP", "AVIF", "TIFF", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_eight_bits_are_turned_upright_once(tmp_path, name, mode, orientation):
    plain = read(tmp_path, encoded(name, mode, **({"lossless": True} if name == "WEBP" else {})))
    turned = read(tmp_path, encoded(name, mode, exif=exif(orientation).tobytes(), **({"lossless": True} if name == "WEBP" else {})))
    assert np.array_equal(turned.pixels, upright(plain.pixels, orientation))


def test_more_than_eight_bits_of_avif_are_told(tmp_path):
    data = imagecodecs.avif_encode(picture(64, 64, dtype=np.uint16) >> 6, level=100, bitspersample=10)
    photo = read(tmp_path, data)
    assert photo.pixels.dtype == np.uint8 and photo.remarks == ("its 10 bits per channel are reduced to 8",)
    assert read(tmp_path, encoded("AVIF")).remarks == ()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.psd", b"8BPS\0\1" + bytes(50), "a Photoshop file"),
        ("a", b"8BPS\0\2" + bytes(50), "a Photoshop file"),
        ("a.exr", b"\x76\x2f\x31\x01" + bytes(50), "OpenEXR"),
        ("a.hdr", b"#?RADIANCE\n", "Radiance HDR"),
        ("a.ppm", b"P6\n4 4\n255\n" + bytes(48), "a Netpbm image"),
        ("a.TGA", bytes(50), "Targa"),
        ("a.svg", b"<svg/>", "a vector drawing"),
        ("a.ico", b"\0\0\1\0" + bytes(50), "an icon"),
        ("a.jxr", b"II\xbc\1" + bytes(50), "JPEG XR"),
        ("a.xcf", b"gimp xcf v011", "a GIMP file"),
        ("a", b"qoif" + bytes(50), "QOI"),
    ],
)
def test_other_kinds_of_images_are_named_with_a_remedy(tmp_path, name, data, words):
    assert looks_like_image(tmp_path / name, data)
    with pytest.raises(UnreadableImageError, match=f"it is {words}.*export it as TIFF or PNG"):
        read(tmp_path, data, name)


@pytest.mark.parametrize("data", [b"BM is how this text begins", b"P5 is a short text", b"\xff\x0a", b"", b"text"])
def test_what_merely_begins_like_an_image_is_none(tmp_path, data):
    assert not looks_like_image(tmp_path / "notes.txt", data)


def test_a_bmp_without_a_suffix_is_seen(tmp_path):
    assert looks_like_image(tmp_path / "scan", encoded("BMP")[:HEAD]) and looks_like_image(tmp_path / "scan", encoded("BMP", "P")[:HEAD])
