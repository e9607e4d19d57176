"""Reading photographs, and writing them back with all they carry."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from datamodules.images import UnreadableImageError, encode_photo, format_of, lost_in, read_photo, read_size
from datamodules.images.formats import FORMATS, WRITTEN
from datamodules.images.reading import read_upright_size
from tests.datamodules.images.made_images import SRGB, deep, encoded, exif, floating_tiff, picture

LOSSLESS = {"PNG": {}, "TIFF": {}, "BMP": {}, "WEBP": {"lossless": True, "exact": True}}


def read(folder, data, name="photo"):
    (folder / name).write_bytes(data)
    return read_photo(folder / name)


def again(folder, photo, kind=None):
    data = encode_photo(photo, photo.pixels, kind or photo.format)
    return read(folder, data, "again"), Image.open(io.BytesIO(data))


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, mode) for name in LOSSLESS for mode in ("RGB", "RGBA", "L", "LA", "1", "P") if name != "BMP" or "A" not in mode],
)
def test_pixels_are_those_of_pillow(tmp_path, name, mode):
    data = encoded(name, mode, **LOSSLESS[name])
    photo = read(tmp_path, data, "misnamed.jpg")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    gray = mode in ("L", "LA", "1") and name != "WEBP"  # WebP knows no gray
    assert photo.pixels.shape == (24, 40, 1 if gray else 3) and photo.pixels.dtype == np.uint8
    assert (photo.pixels == expected[:, :, :1] if gray else photo.pixels == expected[:, :, :3]).all()
    if mode in ("RGBA", "LA"):
        assert (photo.alpha == expected[:, :, 3]).all()
    else:
        assert photo.alpha is None


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_stay_sixteen_bits_in_and_out(tmp_path, suffix, channels):
    photo = read(tmp_path, deep(suffix, channels))
    expected = picture(channels=channels, dtype=np.uint16)
    assert photo.pixels.dtype == np.uint16 and (photo.pixels == expected[:, :, : min(3, channels)]).all()
    assert (photo.alpha is None) == (channels < 4)
    for kind in WRITTEN[1], WRITTEN[3]:  # PNG and TIFF
        back, _ = again(tmp_path, photo, kind)
        assert back.pixels.dtype == np.uint16 and (back.pixels == photo.pixels).all()
        assert channels < 4 or (back.alpha == photo.alpha).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_the_upright_size_is_that_of_the_photo(tmp_path, name, orientation):
    data = encoded(name, exif=exif(orientation).tobytes())
    photo = read(tmp_path, data, "photo")
    assert read_upright_size(tmp_path / "photo") == photo.pixels.shape[1::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_orientation_is_applied_as_pillow_applies_it_and_reset(tmp_path, name, orientation):
    settings = LOSSLESS.get(name, {})
    data = encoded(name, exif=exif(orientation).tobytes(), **settings)
    photo = read(tmp_path, data)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert photo.pixels.shape == expected.shape and (photo.pixels == expected).all()
    _, written = again(tmp_path, photo)
    assert written.size == expected.shape[1::-1] and written.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("target", ["own", "PNG"])
def test_profile_and_metadata_are_carried_over(tmp_path, name, target):
    data = encoded(name, exif=exif(6).tobytes(), icc_profile=SRGB)
    photo = read(tmp_path, data)
    _, written = again(tmp_path, photo, photo.format if target == "own" else WRITTEN[1])
    assert written.info["icc_profile"] == SRGB
    assert written.getexif()[0x010F] == "Maker" and written.getexif().get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"


def test_sixteen_bit_files_carry_profile_xmp_and_exif(tmp_path):
    import dataclasses

    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    photo = dataclasses.replace(read(tmp_path, deep(".png")), icc=SRGB, exif=exif().tobytes()[6:], xmp=packet, dpi=(300.0, 300.0))
    for kind in WRITTEN[1], WRITTEN[3]:
        _, written = again(tmp_path, photo, kind)
        assert written.info["icc_profile"] == SRGB and written.getexif()[0x010F] == "Maker"
        assert packet in (written.info.get("xmp") or written.info["XML:com.adobe.xmp"].encode())
        assert written.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_what_a_format_cannot_hold_is_told(tmp_path):
    photo = read(tmp_path, deep(".png", 4))
    (tmp_path / "b.jpg").write_bytes(encode_photo(photo, photo.pixels, WRITTEN[0]))
    assert lost_in(photo, WRITTEN[0]) == ("JPEG holds 8 bits per channel, of its 16", "JPEG does not hold its transparency")
    back = read_photo(tmp_path / "b.jpg")
    assert back.format == WRITTEN[0] and back.alpha is None and np.abs(back.pixels - photo.pixels / 257).mean() < 6
    assert lost_in(photo, WRITTEN[1]) == lost_in(photo, WRITTEN[3]) == ()


def test_cmyk_becomes_rgb_and_leaves_its_profile_behind(tmp_path):
    photo = read(tmp_path, encoded("JPEG", "CMYK", quality=95))
    assert photo.pixels.shape == (24, 40, 3) and photo.icc is None
    assert np.abs(photo.pixels.astype(int) - picture()).mean() < 20


def test_one_pixel_is_an_image(tmp_path):
    data = io.BytesIO()
    Image.new("L", (1, 1), 77).save(data, "PNG")
    photo = read(tmp_path, data.getvalue())
    assert photo.pixels.tolist() == [[[77]]] and read_size(tmp_path / "photo") == (1, 1)


def test_of_several_frames_the_first_is_kept_and_told(tmp_path):
    data = encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (40, 24))], duration=10)
    assert read(tmp_path, data).remarks == ("only the first of its 2 frames is kept",)


def test_damaged_metadata_do_not_cost_the_picture(tmp_path):
    photo = read(tmp_path, encoded("PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\0"))
    assert photo.pixels.shape == (24, 40, 3) and photo.exif is None and "dropped" in photo.remarks[-1]


def bomb():
    """A PNG of a few bytes whose header promises 40,000 x 40,000 pixels."""
    import struct
    import zlib

    chunk = lambda name, content: struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))  # noqa: E731
    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.png", bomb(), "decompression bomb"),
        ("a.jpg", encoded("JPEG")[:-40], "cut short"),
        ("a.jpg", encoded("JPEG")[:300] + bytes(400), "cut short|damaged"),
        ("a.png", encoded("PNG")[:-20], "damaged or cut short"),
        ("a.tif", deep(".tif")[:1500], "damaged"),
        ("a.tif", floating_tiff(), "floating-point"),
        ("a.jpg", b"", "it is empty"),
        ("a.jpg", b"Not an image", "begins with 4e 6f 74"),
        ("a.CR2", deep(".tif"), "RAW file; develop it first"),
        ("a.tif", b"II*\0\x10\0\0\0CR\2\0", "RAW file; develop it first"),
    ],
)
def test_what_cannot_be_read_is_told_why(tmp_path, name, data, words):
    with pytest.raises(UnreadableImageError, match=words):
        read(tmp_path, data, name)


def test_a_folder_named_like_an_image_is_told(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(UnreadableImageError, match="it is a folder"):
        read_photo(tmp_path / "a.jpg")


def test_formats_are_told_by_their_bytes_alone(tmp_path):
    for kind in WRITTEN:
        assert format_of(tmp_path / "any.name", encoded(kind.name)[:32]) == kind
    assert {kind.name for kind in FORMATS} - {kind.name for kind in WRITTEN} == {"HEIF", "GIF", "JPEG2000", "JXL"}
