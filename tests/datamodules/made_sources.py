"""Look-alikes of FoundIR as it is released and as people unpack it: the same made pairs in every layout."""

import io
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from datamodules.rng import named_rng
from tests.datamodules.made_zip import bytes_of, write_spanned_zip

GROUPS = ("01Blur", "08Haze", "12NightRain")
ZIP = shutil.which("zip")
needs_zip = pytest.mark.skipif(ZIP is None, reason="Debian's zip is not installed: apt-get install zip")

_ORIENTATION = 0x0112
_KINDS = [  # suffix and encoding of the degraded image and of its ground truth, as they are found in FoundIR
    (".png", "PNG", ".png", "PNG"),
    (".JPG", "JPEG", ".png", "PNG"),
    (".jpg", "JPEG", ".jpg", "JPEG"),
    (".png", "JPEG", ".png", "JPEG"),  # JPEG by content
    (".jpg", "rotated JPEG", ".jpg", "rotated JPEG"),
    (".jpg", "JPEG", ".JPG", "JPEG"),
]


class MadePair(NamedTuple):
    """A pair as it is stored; None is a file that is not there."""

    lq: bytes | None
    lq_suffix: str
    gt: bytes | None
    gt_suffix: str


Pairs = Mapping[str, Mapping[str, MadePair]]
"""Pairs by group and stem."""


def made_images(name: str, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A degraded image and its ground truth: noise, which neither PNG nor deflate makes smaller."""
    clean = named_rng("pair", name).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return clean // 2, clean


def encoded(image: np.ndarray, encoding: str) -> bytes:
    """The image as PNG, as JPEG, or as JPEG whose EXIF tells the viewer to turn it by 90 degrees."""
    buffer, picture = io.BytesIO(), Image.fromarray(image)
    if encoding == "PNG":
        picture.save(buffer, "PNG", compress_level=1)
    else:
        exif = Image.Exif()
        exif[_ORIENTATION] = 6 if encoding == "rotated JPEG" else 1
        picture.save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def made_pairs(groups: tuple[str, ...] = GROUPS, count: int = 6, side: int = 160) -> dict[str, dict[str, MadePair]]:
    """``count`` pairs of each group, ``side`` + 16 by ``side`` pixels, stems of seven digits counted through as in FoundIR."""
    pairs: dict[str, dict[str, MadePair]] = {}
    number = 0
    for group in groups:
        pairs[group] = {}
        for place in range(count):
            number += 1
            lq_suffix, lq_encoding, gt_suffix, gt_encoding = _KINDS[place % len(_KINDS)]
            lq, gt = made_images(f"{number:07d}", side + 16, side)
            pairs[group][f"{number:07d}"] = MadePair(encoded(lq, lq_encoding), lq_suffix, encoded(gt, gt_encoding), gt_suffix)
    return pairs


def stored_files(pairs: Mapping[str, MadePair]) -> Iterator[tuple[str, str, bytes]]:
    """Side (``GT`` or ``LQ``), file name and bytes of what a group stores, ground truths first."""
    for stem, pair in pairs.items():
        if pair.gt is not None:
            yield "GT", stem + pair.gt_suffix, pair.gt
    for stem, pair in pairs.items():
        if pair.lq is not None:
            yield "LQ", stem + pair.lq_suffix, pair.lq


def write_files(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_group_folders(root: Path, pairs: Pairs) -> Path:
    """``<group>/{GT,LQ}/<stem>.<suffix>``"""
    return write_files(root, {f"{group}/{side}/{name}": data for group in pairs for side, name, data in stored_files(pairs[group])})


def write_side_folders(root: Path, pairs: Pairs) -> Path:
    """``{GT,LQ}/<group>/<stem>.<suffix>``"""
    return write_files(root, {f"{side}/{group}/{name}": data for group in pairs for side, name, data in stored_files(pairs[group])})


def write_meta(meta: Path, pairs: Pairs, *, side_first: bool = False) -> Path:
    """Write FoundIR's list of "GT_rel, LQ_rel" lines over group folders, or over side folders."""
    lines = []
    for group, stems in pairs.items():
        gt, lq = (f"GT/{group}", f"LQ/{group}") if side_first else (f"{group}/GT", f"{group}/LQ")
        lines += [f"{gt}/{stem}{pair.gt_suffix}, {lq}/{stem}{pair.lq_suffix}\n" for stem, pair in stems.items()]
    meta.parent.mkdir(parents=True, exist_ok=True)
    meta.write_text("".join(lines))
    return meta


def write_archives(
    root: Path,
    pairs: Pairs,
    split: str | None = "128k",
    *,
    zip64: bool = False,
    deflate: bool = True,
    top_folder: bool = True,
    tool: str = "zip" if ZIP else "python",
) -> Path:
    """Write one zip of every group, in volumes of ``split`` bytes or in one.

    Args:
        root: The folder of the archives.
        pairs: What to store.
        split: Bytes of a volume, such as "128k"; None is one volume.
        zip64: Force Zip64 records.
        deflate: Compress, else store.
        top_folder: Store ``<group>/GT/…``, else ``GT/…``.
        tool: "zip" is Debian's, "python" this package's `write_spanned_zip`, both read alike.
    """
    root.mkdir(parents=True, exist_ok=True)
    for group, stems in pairs.items():
        files = {f"{group + '/' if top_folder else ''}{side}/{name}": data for side, name, data in stored_files(stems)}
        archive = root / f"{group}.zip"
        if tool == "python":
            write_spanned_zip(archive, files, bytes_of(split) if split else None, deflate=deflate, zip64=zip64)
        else:
            zip_files(archive, files, split=split, zip64=zip64, deflate=deflate)
    return root


def zip_files(archive: Path, files: Mapping[str, bytes], *, split: str | None, zip64: bool = False, deflate: bool = True) -> None:
    """Pack files, and the directories they lie in, with Debian's zip."""
    if ZIP is None:
        raise FileNotFoundError('Debian\'s zip is not installed: run "apt-get install zip", or ask for tool="python"')
    archive.parent.mkdir(parents=True, exist_ok=True)
    command = [ZIP, "-q", "-r", *(["-s", split] if split else []), *(["-fz"] if zip64 else []), *([] if deflate else ["-0"])]
    with tempfile.TemporaryDirectory() as scratch:
        write_files(Path(scratch), files)
        subprocess.run([*command, archive.resolve(), "."], cwd=scratch, check=True, timeout=60)
