"""``mimdit restore`` fed with broken files: every one is restored whole or named, none costs another."""

import io
import time
import warnings
from collections.abc import Iterator

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image

from datamodules.images import read_photo
from datamodules.images.finding import plan
from mimdit.commands.restore import restore_all
from tests.commands.made_restorers import Identity
from tests.datamodules.images.made_images import SRGB, deep, encoded, exif, picture, tiff

SEEDS = {
    "jpg": encoded("JPEG", exif=exif(6).tobytes(), icc_profile=SRGB),
    "progressive.jpg": encoded("JPEG", progressive=True),
    "gray.jpg": encoded("JPEG", "L"),
    "cmyk.jpg": encoded("JPEG", "CMYK"),
    "png": encoded("PNG", exif=exif(3).tobytes(), icc_profile=SRGB),
    "palette.png": encoded("PNG", "P"),
    "deep.png": deep(".png", 4),
    "webp": encoded("WEBP", "RGBA", exif=exif(8).tobytes()),
    "lossless.webp": encoded("WEBP", lossless=True),
    "tif": encoded("TIFF"),
    "deflated.tif": encoded("TIFF", "RGBA", compression="tiff_adobe_deflate"),
    "deep.tif": deep(".tif"),
    "lzw.tif": tiff(picture(dtype=np.uint16), photometric="rgb", compression="lzw", predictor=True, rowsperstrip=5),
    "tiles.tif": tiff(picture(dtype=np.uint16), photometric="rgb", compression="adobe_deflate", tile=(16, 16)),
    "gif": encoded("GIF"),
    "jp2": encoded("JPEG2000"),
    "deep.jp2": imagecodecs.jpeg2k_encode(picture(64, 80, dtype=np.uint16), level=0, reversible=True),
    "jxl": imagecodecs.jpegxl_encode(picture(dtype=np.uint16), lossless=True),
    "bmp": encoded("BMP"),
    "palette.bmp": encoded("BMP", "P"),
    "avif": encoded("AVIF", exif=exif(5).tobytes()),
}
EACH = 70
"""Mutations of each seed."""


def mutations(data: bytes, count: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Files cut short, overwritten, shuffled, spliced, and with numbers in the header that promise the impossible."""
    for number in range(count):
        changed, at = bytearray(data), int(rng.integers(len(data)))
        match number % 7:
            case 0:
                changed = changed[:at]
            case 1:
                for place in rng.integers(len(data), size=int(rng.integers(1, 20))):
                    changed[place] = int(rng.integers(256))
            case 2:
                changed[at : at + 64] = bytes(len(changed[at : at + 64]))
            case 3:
                changed[at:at] = rng.bytes(int(rng.integers(1, 200)))
            case 4:
                del changed[at : at + int(rng.integers(1, 100))]
            case 5:
                place = int(rng.integers(min(200, len(data) - 4)))
                changed[place : place + 4] = bytes.fromhex(str(rng.choice(["ffffffff", "00000000", "7fffffff", "00010000", "ffff0000"])))
            case 6:
                changed = changed[:at] + bytes(len(data) - at)
        yield bytes(changed)


def is_undecodable(data: bytes) -> bool:
    """Whether neither of two decoders, asked directly, makes an image of it."""
    with warnings.catch_warnings(action="ignore"):
        return not (pillow_decodes(data) or opencv_decodes(data))


def pillow_decodes(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception:  # a damaged file makes its plugins raise whatever they stumble over
        return False
    return True


def opencv_decodes(data: bytes) -> bool:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) is not None
    except cv2.error:
        return False


def test_a_thousand_broken_files(tmp_path):
    rng = np.random.default_rng(0)
    for name, data in SEEDS.items():
        for number, changed in enumerate(mutations(data, EACH, rng)):
            (tmp_path / "in" / f"{number % 5}").mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / f"{number % 5}" / f"{number:03}.{name}").write_bytes(changed)
        (tmp_path / "in" / f"whole.{name}").write_bytes(data)
    originals = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*.*")}
    assert len(originals) == (EACH + 1) * len(SEEDS) > 1000

    jobs = plan([tmp_path / "in"], tmp_path / "out")
    began = time.monotonic()
    failed = dict(restore_all(Identity(), jobs))
    seconds = time.monotonic() - began

    written = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    done = {job.source: job.target for job in jobs if job.source not in failed}
    assert {job.source for job in jobs} == set(originals) and set(done.values()) == written  # each one of the two, and no half file
    assert all(why for why in failed.values())
    assert {path: path.read_bytes() for path in originals} == originals
    for source in done:
        assert not is_undecodable(originals[source]), source
        assert (read_photo(done[source]).pixels == read_photo(source).pixels).all()
    whole = [tmp_path / "in" / f"whole.{name}" for name in SEEDS]
    assert all(path in done for path in whole)
    assert len(failed) > 300 and len(done) > 100, (len(failed), len(done))  # the mutations are neither all fatal nor all harmless
    print(f"{len(originals)} files: {len(done)} restored, {len(failed)} named, in {seconds:.1f} s")


@pytest.mark.parametrize("name", SEEDS)
def test_every_seed_cut_anywhere_is_refused(tmp_path, name):
    """Cut to half of its bytes no format is whole."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"half.{name}").write_bytes(SEEDS[name][: len(SEEDS[name]) // 2])
    jobs = plan([tmp_path / "in"], tmp_path / "out")
    assert [source.name for source, _ in restore_all(Identity(), jobs)] == [f"half.{name}"] and not (tmp_path / "out").exists()
