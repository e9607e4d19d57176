"""TIFF by its tags: what each of them does to the pixels, and which kinds are refused by name."""

import dataclasses
import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from datamodules.images import UnreadableImageError, encode_photo, read_photo, read_size
from datamodules.images.formats import TIFF
from tests.datamodules.images.made_images import exif, picture, tiff, upright

DEPTHS = (np.uint8, np.uint16)
ORIENTATION = 274


def read(folder, data):
    (folder / "a.tif").write_bytes(data)
    return read_photo(folder / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", [{"rowsperstrip": 7}, {"tile": (16, 16)}])
def test_it_is_turned_upright_once(tmp_path, orientation, dtype, channels, layout):
    pixels = picture(channels=channels, dtype=dtype)
    kind = "rgb" if channels == 3 else "minisblack"
    stored = pixels if channels == 3 else pixels[:, :, 0]
    photo = read(tmp_path, tiff(stored, photometric=kind, extratags=[(ORIENTATION, "H", 1, orientation, True)], **layout))
    assert photo.pixels.dtype == dtype and np.array_equal(photo.pixels, upright(pixels, orientation))
    again = read(tmp_path, encode_photo(photo, photo.pixels, TIFF))
    assert np.array_equal(again.pixels, photo.pixels)


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("compression", [None, "lzw", "adobe_deflate", "zstd"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_separate_planes_are_the_channels(tmp_path, dtype, compression, byteorder):
    pixels = picture(channels=3, dtype=dtype)
    predictor = {} if compression is None else {"predictor": True}
    data = tiff(
        pixels.transpose(2, 0, 1),
        photometric="rgb",
        planarconfig="separate",
        compression=compression,
        byteorder=byteorder,
        rowsperstrip=5,
        **predictor,
    )
    assert np.array_equal(read(tmp_path, data).pixels, pixels)


@pytest.mark.parametrize("dtype", DEPTHS)
def test_where_white_is_zero_black_is_not(tmp_path, dtype):
    pixels = picture(channels=1, dtype=dtype)
    data = tiff(np.iinfo(dtype).max - pixels[:, :, 0], photometric="miniswhite")
    assert np.array_equal(read(tmp_path, data).pixels, pixels)


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("colors", [1, 3])
def test_associated_alpha_is_divided_out(tmp_path, dtype, colors):
    most, pixels = np.iinfo(dtype).max, picture(channels=colors, dtype=dtype)
    alpha = np.linspace(0, most, pixels[:, :, 0].size).reshape(pixels.shape[:2]).astype(dtype)
    associated = np.rint(pixels.astype(float) * alpha[:, :, None] / most).astype(dtype)
    kind = {"photometric": "rgb" if colors == 3 else "minisblack", "planarconfig": "contig"}
    photo = read(tmp_path, tiff(np.dstack([associated, alpha]), extrasamples=["assocalpha"], **kind))
    straight = read(tmp_path, tiff(np.dstack([pixels, alpha]), extrasamples=["unassalpha"], **kind))
    assert np.array_equal(photo.alpha, alpha) and np.array_equal(straight.alpha, alpha) and np.array_equal(straight.pixels, pixels)
    seen = alpha > 0
    error = np.abs(photo.pixels.astype(float) - pixels)[seen] * (alpha[seen] / most)[:, None]
    assert error.max() <= 1 and (photo.pixels[~seen] == 0).all()  # what rounding to whole numbers took, and no more


@pytest.mark.parametrize("dtype", DEPTHS)
def test_an_extra_channel_that_is_not_alpha_is_left_out_and_told(tmp_path, dtype):
    pixels = picture(channels=4, dtype=dtype)
    photo = read(tmp_path, tiff(pixels, photometric="rgb", extrasamples=["unspecified"]))
    assert np.array_equal(photo.pixels, pixels[:, :, :3]) and photo.alpha is None
    assert photo.remarks == ("its 1 extra channel is not transparency and left out",)
    five = np.dstack([pixels, picture(channels=1, dtype=dtype)])
    photo = read(tmp_path, tiff(five, photometric="rgb", extrasamples=["unspecified", "unassalpha"]))
    assert np.array_equal(photo.pixels, five[:, :, :3]) and np.array_equal(photo.alpha, five[:, :, 4])
    assert photo.remarks == ("its 1 extra channel is not transparency and left out",)


RGB16 = picture(dtype=np.uint16)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiff(RGB16.astype(np.float32), photometric="rgb"), "floating-point or 32-bit"),
        (tiff(RGB16.astype(np.float16), photometric="rgb"), "floating-point or 32-bit"),
        (tiff(RGB16.astype(np.uint32), photometric="rgb"), "floating-point or 32-bit"),
        (tiff((RGB16 // 2).astype(np.int16), photometric="rgb"), "signed or complex"),
        (tiff(RGB16 >> 4, photometric="rgb", bitspersample=12), "it has 12 bits per channel"),
        (tiff(RGB16, photometric="cielab"), "its pixels are CIE Lab of 16 bits"),
        (tiff(picture(channels=4, dtype=np.uint16), photometric="separated"), "its pixels are CMYK of 16 bits"),
        (tiff(RGB16[:, :, 0], photometric="cfa", extratags=[(33421, "H", 2, (2, 2), True)]), "color filter array"),
        (tiff(np.stack([RGB16[:, :, 0]] * 3), photometric="minisblack", volumetric=True, tile=(1, 16, 16)), "a volume of 3 layers"),
    ],
)
def test_a_kind_that_is_not_supported_is_named(tmp_path, data, words):
    with pytest.raises(UnreadableImageError, match=words):
        read(tmp_path, data)


@pytest.mark.parametrize("compression", [None, "lzw", "adobe_deflate"])
@pytest.mark.parametrize("layout", [{"rowsperstrip": 5}, {"tile": (16, 16)}])
def test_a_missing_strip_or_tile_is_no_black_area(tmp_path, compression, layout):
    data = bytearray(tiff(RGB16, photometric="rgb", compression=compression, **layout))
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        tag = tif.pages[0].tags["TileByteCounts" if "tile" in layout else "StripByteCounts"]
        data[tag.valueoffset : tag.valueoffset + (2 if tag.dtype == 3 else 4)] = bytes(2 if tag.dtype == 3 else 4)
    with pytest.raises(UnreadableImageError, match="damaged|lacks a strip or tile"):
        read(tmp_path, bytes(data))


@pytest.mark.parametrize("name", ["PhotometricInterpretation", "Predictor", "BitsPerSample", "Compression", "ExtraSamples"])
def test_no_default_takes_the_place_of_a_damaged_tag(tmp_path, name):
    pixels = picture(channels=4, dtype=np.uint16)
    data = bytearray(tiff(pixels, photometric="rgb", compression="lzw", predictor=True, extrasamples=["assocalpha"]))
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        tag = tif.pages[0].tags[name]
    data[tag.offset + 4 : tag.offset + 12] = b"\xff" * 8
    with pytest.raises(UnreadableImageError, match=f"damaged: tag {tag.code} cannot be read"):
        read(tmp_path, bytes(data))
    if name == "PhotometricInterpretation":
        data[tag.offset : tag.offset + 2] = b"\x07\x01"  # a tag of no use here
        with pytest.raises(UnreadableImageError, match="does not say whether it is RGB or gray"):
            read(tmp_path, bytes(data))


def test_no_rows_are_no_image(tmp_path):
    data = bytearray(tiff(RGB16, photometric="rgb"))
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        place = tif.pages[0].tags["ImageLength"].valueoffset
    data[place : place + 2] = b"\0\0"
    with pytest.raises(UnreadableImageError, match="40 x 0 pixels"):
        read(tmp_path, bytes(data))


def test_the_size_is_read_of_any_kind_that_is_read(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(RGB16.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"))
    assert read_size(tmp_path / "a.tif") == (40, 24)


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "YCbCr"])
def test_other_kinds_of_eight_bits_are_read_by_pillow(tmp_path, mode):
    out = io.BytesIO()
    Image.fromarray(picture()).convert(mode).save(out, "TIFF", **({"compression": "jpeg"} if mode == "YCbCr" else {}))
    expected = np.asarray(Image.open(out).convert("L" if mode == "1" else "RGB"))
    assert np.array_equal(read(tmp_path, out.getvalue()).pixels, expected[:, :, None] if mode == "1" else expected)


@pytest.mark.parametrize("dtype", DEPTHS)
def test_a_written_one_carries_exif_with_its_folders_xmp_iptc_and_resolution(tmp_path, dtype):
    made = exif()
    made.get_ifd(0x8825)[2], made[0x8298] = (52.0, 30.0, 12.5), "XX me"
    packet, iptc = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>', b"\x1c\x02\x78\0\5hello"
    source = read(tmp_path, tiff(picture(dtype=dtype), photometric="rgb"))
    source = dataclasses.replace(source, xmp=packet, iptc=iptc, dpi=(300.0, 150.0))
    source = dataclasses.replace(source, exif=made.tobytes()[6:].replace(b"XX me", "© me".encode()))
    data = encode_photo(source, source.pixels, TIFF)
    back = read(tmp_path, data)
    assert (back.xmp, back.iptc, back.dpi) == (packet, iptc, (300.0, 150.0)) and np.array_equal(back.pixels, source.pixels)
    found = Image.Exif()
    found.load(back.exif)
    assert found[0x010F] == "Maker" and found.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    assert found.get_ifd(0x8825)[2] == (52.0, 30.0, 12.5) and "© me".encode() in data and "© me".encode() in back.exif
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        page = tif.pages[0]
        assert page.tags[34665].value["DateTimeOriginal"] == "2020:01:02 03:04:05" and page.tags[700].value == packet
        assert np.array_equal(page.asarray(), source.pixels)
