"""``mimdit identify``: name the degradations of photographs in files and folders."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from datamodules.images import UnreadableImageError, read_photo
from datamodules.images.finding import list_images
from datamodules.images.formats import HEAD, looks_like_image
from mimdit.commands.restore import reason_of, tile_for_free_memory
from mimdit.core.batch import ATOMS
from mimdit.core.devices import device_named
from mimdit.core.files import replace_when_whole
from mimdit.distributed.loading import load_restorer
from mimdit.restorer.identification import check_identifies, identify_pixels
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sampling import SamplingSettings

_WIDEST_NAME = 60
Row = tuple[Path, dict[str, float]]
"""A photograph and its probabilities by degradation."""


def identify(
    inputs: list[str],
    *,
    checkpoint: str | None = None,
    json: str | None = None,
    csv: str | None = None,
    likely: float = 0.5,
    tile: int | Literal["auto"] = "auto",
    device: str = "auto",
) -> None:
    """Name the degradations of photographs, or of folders of them.

    mimdit identify photos/ more.jpg prints a row for each photograph: the probability of blur, noise, jpeg, haze, rain, raindrop and
    lowlight, with a star at the likely ones. Several may be present at once, so a row does not sum to 1. Images that cannot be read are
    listed at the end, and the exit code is 1.

    Args:
        inputs: Image files and folders.
        checkpoint: Folder of mimdit export, or a .ckpt of mimdit fit; null is the default that comes with the package.
        json: File to write the probabilities to, with the images that could not be read.
        csv: File to write the table to.
        likely: Probability from which a degradation gets a star, 0 to 1.
        tile: Process images above tile² pixels in pieces of about that area, which changes no probability; auto chooses by the free memory.
        device: cpu, cuda, cuda:1, mps; auto takes a GPU where there is one.
    """
    if not 0 <= likely <= 1:
        raise ValueError(f"likely={likely} is no probability; give 0 to 1")
    images = list_images(map(Path, inputs))
    _check_places({"json": json, "csv": csv}, {source.resolve() for source, _ in images})
    restorer = load_restorer(checkpoint).to(device_named(device))
    check_identifies(restorer)
    settings = restorer.sampling_settings(tile=tile_for_free_memory(restorer.device) if tile == "auto" else tile)
    width = min(_WIDEST_NAME, max(len(str(source)) for source, _ in images))
    print(_line("", ATOMS, width))
    rows: list[Row] = []
    failed: list[tuple[Path, str]] = []
    for source, found in identified(restorer, images, settings):
        if isinstance(found, str):
            failed.append((source, found))
            continue
        rows.append((source, found))
        shown = (f"{probability:.2f}{'*' if probability >= likely else ' '}" for probability in found.values())
        print(_line(str(source), shown, width), flush=True)
    for source, reason in failed:
        print(f"  {source}: {reason}", file=sys.stderr)
    print(f"identified {len(rows)}, failed {len(failed)}", file=sys.stderr)
    if json is not None:
        _write(Path(json), as_json(rows, failed, likely=likely, checkpoint=checkpoint))
    if csv is not None:
        _write(Path(csv), as_csv(rows))
    if failed:
        sys.exit(1)


def identified(
    restorer: Restorer, images: list[tuple[Path, str | None]], settings: SamplingSettings | None = None
) -> Iterator[tuple[Path, dict[str, float] | str]]:
    """Yield each image with its probabilities by degradation, or with the reason why it could not be read.

    Args:
        restorer: A restorer that identifies.
        images: Images and known problems, such as those of `datamodules.images.finding.list_images`.
        settings: Settings whose ``tile`` limits the memory; None for the restorer's own.
    """
    for source, problem in images:
        try:
            yield source, problem or identify_pixels(restorer, read_photo(source).pixels, settings)
        except (UnreadableImageError, OSError, MemoryError, torch.OutOfMemoryError) as error:
            yield source, reason_of(error)


def as_json(rows: list[Row], failed: list[tuple[Path, str]], *, likely: float, checkpoint: str | None = None) -> str:
    """Return the probabilities as JSON: ``images`` with ``file``, ``probabilities`` and ``likely`` (most likely first), and ``failed``."""
    images = [
        {
            "file": str(source),
            "probabilities": {atom: round(probability, 6) for atom, probability in found.items()},
            "likely": sorted((atom for atom in found if found[atom] >= likely), key=lambda atom: -found[atom]),
        }
        for source, found in rows
    ]
    content: Mapping[str, Any] = {
        "checkpoint": checkpoint or "embedded",
        "likely_from": likely,
        "images": images,
        "failed": {str(source): reason for source, reason in failed},
    }
    return json.dumps(content, indent=1) + "\n"


def as_csv(rows: list[Row]) -> str:
    """Return the probabilities as CSV: a column ``file`` and one for each degradation."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *ATOMS])
    writer.writerows([str(source), *(f"{found[atom]:.6f}" for atom in ATOMS)] for source, found in rows)
    return text.getvalue()


def _check_places(options: dict[str, str | None], images: set[Path]) -> None:
    """Refuse files to write that are images, folders or the same, before any work."""
    taken: dict[Path, str] = {}
    for option, given in options.items():
        if given is None:
            continue
        path = Path(given).resolve()
        if path in taken:
            raise ValueError(f"{taken[path]} and {option} are both {given}; name two files")
        if path in images or (path.is_file() and looks_like_image(path, _head(path))):
            raise ValueError(f"{option}={given} would replace an image; name another file")
        if path.is_dir():
            raise ValueError(f"{option}={given} is a folder; name a file in it")
        if not (there := next(parent for parent in path.parents if parent.exists())).is_dir():
            raise ValueError(f"{option}={given}: {there} is no folder; name another file")
        taken[path] = option


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD)


def _line(name: str, cells: Any, width: int) -> str:
    cut = name if len(name) <= width else f"…{name[1 - width :]}"
    columns = (f"{cell:>{max(5, len(atom))}}" for cell, atom in zip(cells, ATOMS, strict=True))
    return f"{cut:<{width}}  {'  '.join(columns)}".rstrip()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_when_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")  # names keep their bytes
