"""A folder of any images through ``mimdit restore``: each comes back as what it is, or is named.

``MIMDIT_PHOTOS=/folder pytest tests/commands/test_photos_in_folder.py -s`` checks your own images, with a restorer that changes nothing.
Without it, a folder of made ones is checked.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images import UnreadableImageError, lost_in, read_photo, read_size
from datamodules.images.exif import ORIENTATION
from datamodules.images.finding import Job, plan
from mimdit.commands.restore import restore_all
from tests.commands.made_restorers import Identity
from tests.datamodules.images.made_images import SRGB, deep, encoded, exif, floating_tiff, picture, png, tiff


def make_photos(folder: Path) -> None:
    """Write one image of each kind, and some that cannot be read."""
    pixels = picture(dtype=np.uint16)
    files = {
        "sub/turned.jpg": encoded("JPEG", exif=exif(6).tobytes(), icc_profile=SRGB, comment=b"mine"),
        "cmyk.jpg": encoded("JPEG", "CMYK"),
        "gray.png": encoded("PNG", "L", exif=exif(8).tobytes()),
        "deep.png": png(picture(channels=2, dtype=np.uint16), 16, 4),
        "alpha.webp": encoded("WEBP", "RGBA", lossless=True, exif=exif(3).tobytes()),
        "planes.tif": tiff(pixels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", extratags=[(274, "H", 1, 5, True)]),
        "deep.tif": deep(".tif", 4),
        "palette.bmp": encoded("BMP", "P"),
        "a.avif": encoded("AVIF", exif=exif(7).tobytes()),
        "a.gif": encoded("GIF"),
        "a.jp2": encoded("JPEG2000"),
        "IMG.v2": encoded("PNG"),
        "floating.tif": floating_tiff(),
        "cut.png": encoded("PNG")[:-30],
        "layers.psd": b"8BPS\0\1" + bytes(40),
        "text.jpg": b"text",
        "notes.txt": b"text",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def check_result(job: Job) -> str | None:
    """Return what is wrong with the result of a photograph, or None."""
    source, result = read_photo(job.source), read_photo(job.target)
    lost = " ".join((*source.remarks, *lost_in(source, job.kind)))
    if sorted(read_size(job.source)) != sorted(result.pixels.shape[1::-1]):
        return f"size {result.pixels.shape[1::-1]} of {read_size(job.source)}"
    if source.pixels.shape[:2] != result.pixels.shape[:2]:
        return "orientation"
    if "8 bits" not in lost and result.pixels.dtype != source.pixels.dtype:
        return f"depth {result.pixels.dtype} of {source.pixels.dtype}"
    if (job.kind.name == "PNG" or source.format.name == "TIFF") and result.pixels.shape != source.pixels.shape:
        return f"{result.pixels.shape[2]} channels of {source.pixels.shape[2]}"
    if "transparency" not in lost and (source.alpha is None) != (result.alpha is None) and (source.alpha < source.alpha.max()).any():
        return "transparency"
    if job.kind.name in ("PNG", "TIFF") and not np.array_equal(source.pixels, result.pixels):
        return "pixels"
    for field in ("icc", "exif", "xmp", "iptc", "text"):
        value = getattr(source, field)
        if field == "exif" and value and set(loaded(value)) <= {ORIENTATION}:  # upright now: nothing is left to say
            continue
        if value and not getattr(result, field) and not lost:
            return f"{field} is gone without a word"
    if job.kind.name == "PNG":
        changed = [field for field in ("icc", "exif", "xmp", "iptc", "text") if getattr(source, field) != getattr(result, field)]
        if changed:
            return f"{', '.join(changed)} changed"
    return None


def loaded(tags: bytes) -> Image.Exif:
    found = Image.Exif()
    found.load(tags)
    return found


def check_folder(folder: Path, output: Path, *, same_format: bool) -> tuple[Counter, list[str]]:
    """Restore a folder; return the number of images restored and named, and what is wrong."""
    jobs = plan([folder], output, same_format=same_format)
    failed = dict(restore_all(Identity(), jobs))
    wrong = [f"{job.source}: no reason" for job in jobs if job.source in failed and not failed[job.source]]
    for job in jobs:
        if job.source in failed:
            print(f"named     {job.source}: {failed[job.source]}")
            if job.target.exists():
                wrong.append(f"{job.source}: named, but {job.target} is there")
            continue
        try:
            problem = check_result(job)
        except UnreadableImageError as error:
            problem = f"its result cannot be read: {error}"
        print(f"restored  {job.source}" + (f": WRONG {problem}" if problem else ""))
        wrong += [f"{job.source}: {problem}"] if problem else []
    return Counter("named" if job.source in failed else "restored" for job in jobs), wrong


@pytest.mark.parametrize("same_format", [False, True], ids=["png", "same_format"])
def test_every_photograph_comes_back_as_what_it_is_or_is_named(tmp_path, same_format):
    folder = os.environ.get("MIMDIT_PHOTOS")
    if not folder:
        make_photos(tmp_path / "in")
    counted, wrong = check_folder(Path(folder or tmp_path / "in"), tmp_path / "out", same_format=same_format)
    print(dict(counted), file=sys.stderr)
    assert not wrong, "\n".join(wrong)
    assert folder or counted == {"restored": 12, "named": 4}
