"""Search for images in files and folders, and the place of each result."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datamodules.images.formats import (
    HEAD,
    PNG,
    WRITTEN,
    ImageFormat,
    UnreadableImageError,
    format_of,
    has_image_suffix,
    looks_like_image,
    named_like_image,
)


@dataclass(frozen=True)
class Job:
    """An image to read, the file to write and its format; ``problem`` is the reason why it cannot be read, if known."""

    source: Path
    target: Path
    kind: ImageFormat = PNG
    problem: str | None = None


def plan(inputs: Iterable[Path], output: Path, *, same_format: bool = False) -> list[Job]:
    """Plan the images to read and the files to write, for files and folders (recursively), in order of names.

    A folder's images keep their sub-folders under ``output``; with several folders, each gets a folder of its own name there. Images that
    share a stem keep their old suffix before the new one, and a suffix that is not an image's is part of the name. Files of kinds of
    images that are not read are jobs with a problem. Hidden files and the contents of ``output`` are skipped. The result of a single file
    is written to ``output`` itself if that has the suffix of an image and is not a folder.

    Args:
        inputs: The files and folders.
        output: Place of the results.
        same_format: If true, write each image in its own format instead of PNG; formats that are only read, such as HEIC, become PNG.

    Raises:
        ValueError: An input is missing, a result would replace a source, or nothing there looks like an image.
    """
    inputs = _existing(inputs)
    if len(inputs) == 1 and not inputs[0].is_dir() and has_image_suffix(output) and not output.is_dir():
        jobs = [Job(inputs[0], output, _written_format(output), _problem(inputs[0]))]
    else:
        found = list(_found(inputs, output))
        stems = Counter(_without_suffix(place) for _, place in found)
        jobs = [_job(source, output / place, stems[_without_suffix(place)] > 1, same_format) for source, place in found]
    _check_some(inputs, len(jobs))
    _check_apart(jobs)
    return jobs


def list_images(inputs: Iterable[Path]) -> list[tuple[Path, str | None]]:
    """Return the images that `plan` finds, each once and with the reason why it cannot be read, if known; nothing is to be written.

    Raises:
        ValueError: An input is missing, or nothing there looks like an image.
    """
    inputs = _existing(inputs)
    sources = list(dict.fromkeys(source for source, _ in _found(inputs, None)))
    _check_some(inputs, len(sources))
    return [(source, _problem(source)) for source in sources]


def _existing(inputs: Iterable[Path]) -> list[Path]:
    inputs = list(inputs)
    for path in inputs:
        if not path.exists() and not path.is_symlink():
            raise ValueError(f"{path} does not exist; give image files or folders of them")
    return inputs


def _check_some(inputs: list[Path], count: int) -> None:
    if not count:
        raise ValueError(f"{', '.join(map(str, inputs))}: nothing in there looks like an image")


def _found(inputs: list[Path], output: Path | None) -> Iterator[tuple[Path, Path]]:
    """Yield each image and its place under the output, whose contents are skipped."""
    aside = None if output is None else output.resolve()
    for path in inputs:
        if not path.is_dir():
            yield path, Path(path.name)
            continue
        if path.resolve() == aside:
            raise ValueError(f"results would replace or join the images in {path}; give an output folder apart from the input")
        home = Path(path.resolve().name) if len(inputs) > 1 else Path()
        for folder, names, files in os.walk(path):
            images = [name for name in names if named_like_image(Path(name))]  # folders named like images are reported, not entered
            names[:] = sorted(
                name for name in names if not name.startswith(".") and name not in images and Path(folder, name).resolve() != aside
            )
            for name in sorted([*files, *images]):
                source = Path(folder, name)
                if not name.startswith(".") and looks_like_image(source, _head(source)):
                    yield source, home / source.relative_to(path)


def _head(path: Path) -> bytes:
    """Return the first bytes of a regular file, and nothing for a file that could block or cannot be read."""
    if not path.is_file():
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD)
    except OSError:  # reported later if it is named like an image
        return b""


def _problem(path: Path) -> str | None:
    if path.is_dir():
        return "it is a folder"
    if not path.is_file():
        return "it is not a regular file, or a broken link"
    try:
        with open(path, "rb") as file:
            format_of(path, file.read(HEAD))
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except UnreadableImageError as error:
        return str(error)
    return None


def _job(source: Path, target: Path, ambiguous: bool, same_format: bool) -> Job:
    problem, kind = _problem(source), PNG
    if same_format and problem is None:
        own = format_of(source, _head(source))
        kind = own if own in WRITTEN else PNG
    if target.suffix.lower() not in kind.suffixes:
        stem = target if ambiguous else _without_suffix(target)
        target = stem.with_name(stem.name + kind.suffix)
    return Job(source, target, kind, problem)


def _without_suffix(path: Path) -> Path:
    return path.with_suffix("") if has_image_suffix(path) else path


def _written_format(path: Path) -> ImageFormat:
    for kind in WRITTEN:
        if path.suffix.lower() in kind.suffixes:
            return kind
    raise ValueError(f"{path}: {path.suffix} cannot be written; name one of {', '.join(kind.suffix for kind in WRITTEN)}")


def _check_apart(jobs: list[Job]) -> None:
    sources = {job.source.resolve() for job in jobs}
    targets: dict[Path, Path] = {}
    for job in jobs:
        if job.target.resolve() in sources:
            raise ValueError(f"the result of {job.source} would replace {job.target}; give an output folder apart from the input")
        if job.target in targets:
            raise ValueError(f"{targets[job.target]} and {job.source} would both become {job.target}; restore them to two folders")
        targets[job.target] = job.source
