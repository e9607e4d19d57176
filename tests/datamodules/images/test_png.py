"""PNG by its chunks: transparent key colors, gray with alpha of 16 bits, and what its metadata become."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from datamodules.images import encode_photo, lost_in, read_photo, read_size
from datamodules.images.formats import PNG, WEBP
from tests.datamodules.images.made_images import SRGB, encoded, exif, picture, png, upright, with_chunks

IPTC = b"\x1c\x02\x78\0\5hello"
GRAY, RGB, GRAY_ALPHA = 0, 2, 4


def read(folder, data):
    (folder / "a.png").write_bytes(data)
    return read_photo(folder / "a.png")


def again(folder, photo):
    data = encode_photo(photo, photo.pixels, PNG)
    return read(folder, data), Image.open(io.BytesIO(data))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_gray_is_transparent_at_every_depth(tmp_path, bits):
    most = (1 << bits) - 1
    values = np.random.default_rng(bits).integers(0, most + 1, (6, 16)).astype(np.uint16)
    key = int(values[2, 3])
    if bits == 16:
        rows = values[:, :, None]
    else:
        digits = (values[:, :, None] >> np.arange(bits)[::-1]) & 1
        rows = np.packbits(digits.reshape(6, -1).astype(np.uint8), axis=1)
    photo = read(tmp_path, png(rows, bits, GRAY, (b"tRNS", struct.pack(">H", key)), width=16))
    full = 65535 if bits == 16 else 255
    assert np.array_equal(photo.pixels[:, :, 0], values.astype(int) * full // most)
    assert np.array_equal(photo.alpha, np.where(values == key, 0, full))
    back, _ = again(tmp_path, photo)
    assert np.array_equal(back.alpha, photo.alpha) and np.array_equal(back.pixels, photo.pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_transparent_color_is_transparent(tmp_path, dtype):
    pixels = picture(dtype=dtype)
    key = struct.pack(">HHH", *map(int, pixels[5, 7]))
    rows = pixels if dtype == np.uint16 else pixels.reshape(24, -1)
    photo = read(tmp_path, png(rows, 8 * pixels.itemsize, RGB, (b"tRNS", key), width=40))
    assert np.array_equal(photo.pixels, pixels)
    assert np.array_equal(photo.alpha, np.where((pixels == pixels[5, 7]).all(axis=2), 0, np.iinfo(dtype).max))


def test_gray_with_alpha_of_sixteen_bits_stays_gray(tmp_path):
    pixels = picture(channels=2, dtype=np.uint16)
    photo = read(tmp_path, png(pixels, 16, GRAY_ALPHA))
    assert np.array_equal(photo.pixels, pixels[:, :, :1]) and np.array_equal(photo.alpha, pixels[:, :, 1])
    data = encode_photo(photo, photo.pixels, PNG)
    assert data[24:26] == bytes([16, GRAY_ALPHA])
    back, _ = again(tmp_path, photo)
    assert np.array_equal(back.pixels, photo.pixels) and np.array_equal(back.alpha, photo.alpha)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_turned_upright_once(tmp_path, orientation, channels):
    pixels = picture(channels=channels, dtype=np.uint16)
    data = png(pixels, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], (b"eXIf", exif(orientation).tobytes()[6:]))
    photo, expected = read(tmp_path, data), upright(pixels, orientation)
    colors = channels - (channels % 2 == 0)
    assert np.array_equal(photo.pixels, expected[:, :, :colors])
    assert channels % 2 or np.array_equal(photo.alpha, expected[:, :, -1])
    assert again(tmp_path, photo)[1].getexif()[0x0112] == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_text_is_carried_over(tmp_path, dtype):
    texts = {"Author": "me", "parameters": "a castle, steps: 20", "Description": "Schloß 城", "Comment": "zipped " * 50}
    pixels = picture(dtype=dtype)
    data = with_chunks(
        png(pixels if dtype == np.uint16 else pixels.reshape(24, -1), 8 * pixels.itemsize, RGB, width=40),
        (b"tEXt", b"Author\0me"),
        (b"iTXt", b"parameters\0\0\0\0\0" + texts["parameters"].encode()),
        (b"iTXt", b"Description\0\1\0de\0Beschreibung\0" + zlib.compress(texts["Description"].encode())),
        (b"zTXt", b"Comment\0\0" + zlib.compress(texts["Comment"].encode())),
    )
    photo = read(tmp_path, data)
    back, written = again(tmp_path, photo)
    assert dict(photo.text) == dict(back.text) == texts and photo.remarks == ()
    assert {key: str(written.text[key]) for key in texts} == texts
    assert lost_in(photo, WEBP)[-1] == "WEBP does not hold its text (Author, parameters, Description, Comment)"


def raw(name, profile):
    return b"zTXt", f"Raw profile type {name}\0\0".encode() + zlib.compress(f"\n{name}\n{len(profile):8}\n{profile.hex()}\n".encode())


def test_raw_profiles_of_imagemagick_are_metadata(tmp_path):
    resource = b"8BIM\4\4\0\0" + struct.pack(">I", len(IPTC)) + IPTC
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    photo = read(tmp_path, with_chunks(encoded("PNG"), raw("exif", exif(6).tobytes()), raw("iptc", resource), raw("xmp", packet)))
    assert photo.pixels.shape == (40, 24, 3) and b"Maker" in photo.exif and photo.iptc == IPTC and photo.xmp == packet and photo.text == ()
    back, written = again(tmp_path, photo)
    assert (back.exif, back.iptc, back.xmp) == (photo.exif, IPTC, packet) and written.getexif()[0x0112] == 1
    assert "Raw profile type iptc" in written.text


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        ((b"zTXt", b"parameters\0\0" + zlib.compress(bytes(1 << 20 | 1))), "zTXt 'parameters' is dropped: it has more than 1 MiB"),
        ((b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(bytes(2 << 20))), "iTXt 'parameters' is dropped: it has more than 1 MiB"),
        ((b"iCCP", b"wide\0\0" + zlib.compress(bytes(3 << 20))), "iCCP 'wide' is dropped: it has more than 1 MiB"),
        ((b"zTXt", b"parameters\0\0" + b"no zlib"), "zTXt 'parameters' is dropped"),
        ((b"iTXt", b"parameters"), "iTXt 'parameters' is dropped"),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_chunk_too_large_or_damaged_costs_itself_and_not_the_picture(tmp_path, chunk, words, dtype):
    pixels = picture(dtype=dtype)
    plain = png(pixels if dtype == np.uint16 else pixels.reshape(24, -1), 8 * pixels.itemsize, RGB, width=40)
    data = with_chunks(plain, (b"tEXt", b"Author\0me"), chunk)
    photo = read(tmp_path, data)
    assert np.array_equal(photo.pixels, pixels) and photo.text == (("Author", "me"),) and photo.icc is None
    assert len(photo.remarks) == 1 and words in photo.remarks[0]
    assert read_size(tmp_path / "a.png") == (40, 24)


def test_many_texts_of_a_megabyte_do_not_cost_the_picture(tmp_path):
    """More text than Pillow takes of one file."""
    data = with_chunks(encoded("PNG"), *[(b"zTXt", f"text {number}\0\0".encode() + zlib.compress(bytes(1 << 20))) for number in range(70)])
    photo = read(tmp_path, data)
    assert len(photo.text) == 32 and len(photo.remarks) == 38 and "all texts together have more than 32 MiB" in photo.remarks[-1]
    assert len(Image.open(io.BytesIO(encode_photo(photo, photo.pixels, PNG))).text) == 32


def test_gamma_and_primaries_are_carried_over_and_told_where_they_cannot(tmp_path):
    gamma = struct.pack(">I", 100000)
    photo = read(tmp_path, with_chunks(encoded("PNG"), (b"gAMA", gamma)))
    back, written = again(tmp_path, photo)
    assert back.colorimetry == ((b"gAMA", gamma),) and written.info["gamma"] == 1.0
    assert lost_in(photo, WEBP) == ("WEBP does not hold its gamma and primaries",)
    assert lost_in(read(tmp_path, with_chunks(encoded("PNG"), (b"gAMA", struct.pack(">I", 45455)))), WEBP) == ()


def test_what_pillow_wrote_comes_back(tmp_path):
    info = PngInfo()
    info.add_text("Author", "me")
    photo = read(tmp_path, encoded("PNG", exif=exif().tobytes(), icc_profile=SRGB, dpi=(300, 300), pnginfo=info))
    _, written = again(tmp_path, photo)
    assert written.info["icc_profile"] == SRGB and written.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert written.text == {"Author": "me"} and written.getexif()[0x010F] == "Maker"
