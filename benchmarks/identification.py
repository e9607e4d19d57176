"""Identification of degradations: average precision on degraded images, and false and missed noise on photographs.

    mimdit shards quickstart data/quickstart
    python benchmarks/foreign.py data/foreign
    python -m benchmarks.identification --shards data/quickstart/validation --foreign data/foreign/validation \
        --noisy cc15 --untouched photographs --json benchmarks/identification.json

- ``made``: images of shards, degraded by this project's formulas at a severity of at least ``--min-severity``, and the undegraded ones.
- ``foreign``: a folder that `benchmarks/foreign.py` wrote: the degraded images of each kind, and the photographs they were made from.
- ``noisy``: real photographs with camera noise (files whose names contain ``--noisy-names``): in how many noise is named.
- ``untouched``: photographs that need nothing: in how many each degradation is named.

A degradation is named at a probability of at least 0.5. The mean average precision is that of the degradations that some images of a set
have and others have not. Each part is left out without its folder.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.figures import write_figures
from datamodules.degradations import CLEAN
from datamodules.images import read_photo
from datamodules.images.finding import list_images
from datamodules.shards import ShardIndex, read_shard
from mimdit.core.batch import ATOMS
from mimdit.core.files import replace_when_whole
from mimdit.distributed.loading import load_restorer
from mimdit.evaluation.identification import average_precision
from mimdit.restorer.identification import LIKELY, check_identifies, identify_pixels
from mimdit.restorer.restorer import Restorer

GOALS = {"made": 0.9, "foreign": 0.75, "noisy": 12 / 15, "untouched": 10 / 100}
"""Least mean average precision, least share of noisy photographs in which noise is named, greatest share of others in which it is."""
TILE = 1024


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="folder of shards, such as validation/ of mimdit shards quickstart")
    parser.add_argument("--min-severity", type=float, default=0.3, help="least severity of the degraded images of --shards")
    parser.add_argument("--foreign", type=Path, help="folder of benchmarks/foreign.py, such as data/foreign/validation")
    parser.add_argument("--noisy", type=Path, help="folder of photographs with camera noise")
    parser.add_argument("--noisy-names", default="_real", help="part of the names of --noisy's noisy photographs")
    parser.add_argument("--untouched", type=Path, help="folder of photographs that need nothing")
    parser.add_argument("--limit", type=int, default=100, help="photographs of --untouched, the first by name")
    parser.add_argument("--checkpoint", help="a .ckpt or a folder of mimdit export; by default the embedded weights")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--table", type=Path, help="write the table here, in Markdown")
    return parser.parse_args()


def made_images(folder: Path, min_severity: float) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Yield the degraded images of shards, and the undegraded ones, each with its atoms.

    Raises:
        ValueError: A sample has no severity: it is none of ``mimdit shards quickstart``.
    """
    index = ShardIndex.load(folder)
    for shard in (shard for shards in index.groups.values() for shard in shards):
        for sample in read_shard(folder / shard.name, samples=shard.samples):
            assert sample.lq is not None and sample.json is not None
            fields = json.loads(sample.json)
            if "severity" not in fields:
                raise ValueError(f"{sample.key} in {folder} has no severity; give shards of mimdit shards quickstart")
            if fields["group"] == CLEAN or fields["severity"] >= min_severity:
                yield np.asarray(Image.open(io.BytesIO(sample.lq)).convert("RGB")), fields["atoms"]


def foreign_images(folder: Path) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Yield the degraded images of every kind with their atom, the first word of the kind, and each undegraded photograph once."""
    seen = set()
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in sorted((kind / "lq").iterdir()):
            yield read_photo(path).pixels, [kind.name.partition("_")[0]]
            photograph = path.stem.rpartition("-")[0]
            if photograph not in seen:
                seen.add(photograph)
                yield read_photo(kind / "gt" / path.name).pixels, []


def ranked(restorer: Restorer, images: Iterable[tuple[np.ndarray, list[str]]]) -> dict:
    """Return the average precision over images with known atoms."""
    found, truth = [], []
    for pixels, atoms in images:
        found.append(list(identify_pixels(restorer, pixels, tile=TILE).values()))
        truth.append([float(atom in atoms) for atom in ATOMS])
    scores_NA, present_NA = torch.tensor(found), torch.tensor(truth)
    score = average_precision(scores_NA, present_NA)
    named_NA = scores_NA >= LIKELY
    return {
        "images": len(found),
        "map": score.mean,
        "of_atoms": score.of_atoms,
        "named_where_present": _shares(named_NA, present_NA == 1),
        "named_where_absent": _shares(named_NA, present_NA == 0),
    }


def counted(restorer: Restorer, paths: list[Path]) -> dict:
    """Return in how many photographs each degradation is named."""
    found = [identify_pixels(restorer, read_photo(path).pixels, tile=TILE) for path in paths]
    return {"images": len(paths), "named": {atom: sum(each[atom] >= LIKELY for each in found) for atom in ATOMS}}


def _shares(named_NA: torch.Tensor, of_NA: torch.Tensor) -> dict[str, float]:
    """Return the share of the images chosen in each column of ``of_NA`` in which the atom is named."""
    return {atom: float(named_NA[of_NA[:, place], place].float().mean()) for place, atom in enumerate(ATOMS) if of_NA[:, place].any()}


def table(figures: dict) -> str:
    """Return the figures as a table in Markdown."""
    lines = [f"| | images | mean | {' | '.join(ATOMS)} | goal |", "|---" * (len(ATOMS) + 4) + "|"]
    for part in ("made", "foreign"):
        if part in figures:
            row = figures[part]
            rows = {"average precision": row["of_atoms"]}
            rows |= {"named where present": row["named_where_present"], "named where absent": row["named_where_absent"]}
            for name, values in rows.items():
                cells = [f"{values[atom]:.2f}" if atom in values else "" for atom in ATOMS]
                first = name == "average precision"
                mean, goal = (f"**{row['map']:.3f}**", f"≥ {GOALS[part]}") if first else ("", "")
                lines.append(f"| {part}: {name} | {row['images']} | {mean} | {' | '.join(cells)} | {goal} |")
    goals = {"noisy": f"noise ≥ {100 * GOALS['noisy']:.0f} %", "untouched": f"noise ≤ {100 * GOALS['untouched']:.0f} %"}
    for part, goal in goals.items():
        if part in figures:
            row = figures[part]
            lines.append(f"| {part}: photographs named | {row['images']} | | {' | '.join(str(row['named'][a]) for a in ATOMS)} | {goal} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    options = arguments()
    restorer = load_restorer(options.checkpoint)
    check_identifies(restorer)
    figures: dict = {"checkpoint": options.checkpoint or "embedded", "min_severity": options.min_severity, "named_from": LIKELY}
    if options.shards is not None:
        figures["made"] = ranked(restorer, made_images(options.shards, options.min_severity))
    if options.foreign is not None:
        figures["foreign"] = ranked(restorer, foreign_images(options.foreign))
    if options.noisy is not None:
        figures["noisy"] = counted(restorer, [path for path, _ in list_images([options.noisy]) if options.noisy_names in path.name])
    if options.untouched is not None:
        figures["untouched"] = counted(restorer, [path for path, _ in list_images([options.untouched])][: options.limit])
    print(table(figures))
    write_figures(options.json, figures)
    if options.table is not None:
        with replace_when_whole(options.table) as temporary:
            temporary.write_text(table(figures))


if __name__ == "__main__":
    main()
