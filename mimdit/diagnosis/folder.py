"""The folder that a run writes to."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from mimdit.core.files import replace_when_whole
from mimdit.diagnosis.finding import Finding

_GIB = 2**30
_NEEDED_GIB, _COMFORTABLE_GIB = 1, 10


def existing(folder: Path) -> Path:
    """``folder``, or the nearest folder above it that exists: a run makes the rest."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def check_folder(folder: Path) -> list[Finding]:
    """Write a file as checkpoints are written, read it again and remove it; and tell the free space."""
    place = existing(folder)
    name = str(place) if place == folder.absolute() else f"{place} (for {folder})"
    if not place.is_dir():
        return [Finding.failed("folder", f"{place} is not a folder", "give the folder that runs are written to")]
    probe, content = place / f".mimdit-doctor-{secrets.token_hex(6)}", secrets.token_bytes(1 << 16)
    try:
        with replace_when_whole(probe) as temporary:
            temporary.write_bytes(content)
        read = probe.read_bytes()
        probe.unlink()
    except OSError as error:
        remedy = "give a folder that you may write to, or free its quota"
        return [Finding.failed("folder", f"{name} cannot be written ({error.strerror or error})", remedy)]
    if read != content:
        return [Finding.failed("folder", f"{name} gives other bytes than were written", "do not use this file system")]
    usage, files = shutil.disk_usage(place), os.statvfs(place)
    told = f"{name} is written, {usage.free / _GIB:.0f} of {usage.total / _GIB:.0f} GiB free"
    if files.f_files and not files.f_favail:
        return [Finding.failed("folder", f"{name} has no file names (inodes) left", "remove small files there")]
    if usage.free < _NEEDED_GIB * _GIB:
        return [Finding.failed("folder", told, "make room: a checkpoint of a large model takes gigabytes")]
    if usage.free < _COMFORTABLE_GIB * _GIB:
        return [Finding.warning("folder", told, "make room, or keep fewer checkpoints")]
    return [Finding.ok("folder", told)]
