"""HEIC, where its optional reader is installed."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from datamodules.images import UnreadableImageError, read_photo, read_size
from datamodules.images.finding import plan
from datamodules.images.reading import read_upright_size
from tests.datamodules.images.made_images import SRGB, exif, picture

BEGINNING = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_without_its_reader_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.images.formats.has_heif", lambda: False)
    (tmp_path / "a.heic").write_bytes(BEGINNING)
    with pytest.raises(UnreadableImageError, match="pip install pillow-heif"):
        read_photo(tmp_path / "a.heic")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_it_stands_upright_and_brings_what_it_carries(tmp_path, orientation):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    path = tmp_path / "a.heic"
    Image.fromarray(picture(64, 96)).save(path, quality=-1, exif=exif(orientation).tobytes(), icc_profile=SRGB)
    photo = read_photo(path)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    turned = Image.fromarray(picture(64, 96))
    turned.getexif()[0x0112] = orientation
    assert photo.pixels.shape == expected.shape and (photo.pixels == expected).all() and photo.icc == SRGB
    out = io.BytesIO()
    turned.save(out, "PNG", exif=turned.getexif())
    upright = np.asarray(ImageOps.exif_transpose(Image.open(out)))
    assert photo.pixels.shape == upright.shape and np.abs(photo.pixels.astype(int) - upright).mean() < 8
    assert b"Maker" in photo.exif and sorted(read_size(path)) == [64, 96]
    assert plan([path], tmp_path / "out", same_format=True)[0].target.name == "a.png"


@pytest.mark.parametrize("orientation", [1, 6])
def test_its_upright_size_is_that_of_the_photo(tmp_path, orientation):
    pytest.importorskip("pillow_heif").register_heif_opener()
    path = tmp_path / "a.heic"
    Image.fromarray(picture(64, 96)).save(path, exif=exif(orientation).tobytes())
    assert read_upright_size(path) == read_photo(path).pixels.shape[1::-1]


def test_a_broken_one_is_named(tmp_path):
    pytest.importorskip("pillow_heif")
    (tmp_path / "a.heic").write_bytes(BEGINNING + bytes(200))
    with pytest.raises(UnreadableImageError, match="HEIF data is damaged"):
        read_photo(tmp_path / "a.heic")
