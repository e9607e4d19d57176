"""The paper's ablations in the small: equal steps, data and seeds, the DiT in the loop, paired differences over images and seeds.

    python benchmarks/study/study.py run [ROW …] [--seeds 0 1 2]     # trains and tests; continues where it was interrupted
    python benchmarks/study/study.py table                           # table.md and study.json: runs that are there, and rows of before

`ROWS` names the rows; the first five are the paper's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from mimdit import Restorer
from mimdit.backbone.inner_experts import is_expert
from mimdit.core.files import replace_when_whole
from mimdit.evaluation.results import DATA_MODULE_TEST_SET, read_results
from mimdit.evaluation.summary import image_of
from mimdit.training.flops import restoration_flops

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import write_figures  # noqa: E402

HERE = Path(__file__).parent
ABLATIONS = HERE.parents[1] / "configs" / "ablation"
FULL = "full"
ROWS = (
    FULL, "no_intra_moe", "homogeneous_channel", "dense_dense", "sparse_sparse",
    "homogeneous_spatial", "homogeneous_swin", "homogeneous_se", "sparse_dense", "no_balance", "uniform_groups",
    "prototype", "inner_experts", "inner_dense",
)  # fmt: skip
"""Rows: `FULL`, or the name of a file in configs/ablation."""

OURS = ("prototype", "inner_experts", "inner_dense")
"""Rows that are not in the paper."""

METRIC = "psnr_rgb"
RESAMPLES = 10_000


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: The ablation.
        seeds: Seeds that were trained.
        mean: Mean of the metric over groups and seeds.
        difference: Mean paired difference to the full model over images and seeds; None for the full model.
        low: Lower end of its 95 % bootstrap interval, over images and seeds.
        high: Upper end.
        parameters: Trained parameters.
        gflops: Operations of one restoration of 128 x 128 pixels, in units of 1e9.
    """

    name: str
    seeds: tuple[int, ...]
    mean: float
    difference: float | None
    low: float | None
    high: float | None
    parameters: int
    gflops: float

    @property
    def verdict(self) -> str:
        """Relation to the full model, and to the paper, in which that is the best."""
        if self.difference is None or self.low is None or self.high is None:
            return ""
        if self.low <= 0 <= self.high:
            return "cannot be told apart"
        of_paper = "" if self.name in OURS else ", as in the paper" if self.high < 0 else ", against the paper"
        return ("worse" if self.high < 0 else "better") + of_paper


def folder_of(root: Path, row: str, seed: int) -> Path:
    """Return the folder of a run."""
    return root / f"{row}-{seed}"


def run(root: Path, row: str, seed: int, options: list[str]) -> None:
    """Train, test and export one row with one seed, unless it is there already.

    Raises:
        subprocess.CalledProcessError: A command failed.
    """
    folder = folder_of(root, row, seed)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    configs = [HERE / "study.yaml", *([] if row == FULL else [ABLATIONS / f"{row}.yaml"])]
    given = [word for config in configs for word in ("--config", str(config))]
    given += [f"--trainer.default_root_dir={folder}", f"--seed_everything={seed}", f"--data.seed={seed}", *options]
    mimdit = [sys.executable, "-m", "mimdit"]
    if not (folder / "export").is_dir():
        subprocess.run([*mimdit, "fit", *given, "--ckpt_path", "last"], check=True)
        subprocess.run([*mimdit, "export", str(checkpoint), str(folder / "export")], check=True)
    if not (folder / "results.jsonl").is_file():
        subprocess.run([*mimdit, "test", *given, "--ckpt_path", str(checkpoint)], check=True)


def scores_of(folder: Path) -> dict[tuple, float]:
    """Return the metric of each image of a run's test."""
    rows = read_results(folder).rows
    return {image_of(row): row["output"][METRIC] for row in rows if row["test_set"] == DATA_MODULE_TEST_SET}


def crossed_interval(differences_SN: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the ends of the 95 % bootstrap interval of the mean of ``[seeds, images]``; seeds and images are both resampled."""
    rng = np.random.default_rng(seed)
    seeds, images = differences_SN.shape
    means = [
        differences_SN[rng.integers(seeds, size=seeds)][:, rng.integers(images, size=images)].mean() for _ in range(RESAMPLES)
    ]  # fmt: skip
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def read_row(root: Path, name: str, seeds: list[int]) -> Row | None:
    """Read one row from the seeds that it and the full model both have; None if there are none."""
    shared = [seed for seed in seeds if all((folder_of(root, each, seed) / "results.jsonl").is_file() for each in (name, FULL))]
    if not shared:
        return None
    own = [scores_of(folder_of(root, name, seed)) for seed in shared]
    full = [scores_of(folder_of(root, FULL, seed)) for seed in shared]
    images = sorted(set.intersection(*map(set, own), *map(set, full)))
    values_SN = np.array([[scores[image] for image in images] for scores in own])
    difference = low = high = None
    if name != FULL:
        differences_SN = values_SN - np.array([[scores[image] for image in images] for scores in full])
        difference, (low, high) = float(differences_SN.mean()), crossed_interval(differences_SN)
    restorer = Restorer.from_pretrained(folder_of(root, name, shared[0]) / "export")
    flops = restoration_flops(restorer, torch.zeros(1, 3, 128, 128), restorer.flow.steps)
    inner = [parameter for name, parameter in restorer.backbone.named_parameters() if is_expert(name)]
    parameters = sum(parameter.numel() for parameter in [*restorer.conditioner.parameters(), *inner])
    return Row(name, tuple(shared), float(values_SN.mean()), difference, low, high, parameters, flops / 1e9)


def with_earlier(rows: list[Row]) -> list[Row]:
    """Return the rows with those of study.json that have more seeds, or that are not here, in the order of `ROWS`."""
    earlier = [Row(**row | {"seeds": tuple(row["seeds"])}) for row in json.loads((HERE / "study.json").read_text())["rows"]]
    found = {row.name: row for row in rows}
    for row in earlier:
        if row.name not in found or len(row.seeds) > len(found[row.name].seeds):
            found[row.name] = row
    return sorted(found.values(), key=lambda row: ROWS.index(row.name))


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        f"| ablation | seeds | {METRIC}, dB | minus full, dB (95 % interval) | parameters | GFLOP | against the full model |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        difference = "" if row.difference is None else f"{row.difference:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
        cells = (row.name, str(len(row.seeds)), f"{row.mean:.2f}", difference, f"{row.parameters:,}", f"{row.gflops:.2f}", row.verdict)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run rows, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("rows", nargs="*", help="rows; all if none is named")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--root", type=Path, default=Path("runs/study"))
    parser.add_argument("--option", action="append", default=[], help="further option of fit, such as --option=--trainer.max_steps=300")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"unknown rows {', '.join(sorted(unknown))}; known are {', '.join(ROWS)}")
    names = arguments.rows or list(ROWS)
    if arguments.action == "run":
        try:
            for seed in arguments.seeds:
                for name in names:
                    run(arguments.root, name, seed, arguments.option)
        except subprocess.CalledProcessError as error:  # the command has printed its error
            sys.exit(error.returncode)
        return
    rows = with_earlier([row for name in names if (row := read_row(arguments.root, name, arguments.seeds)) is not None])
    text = table(rows)
    print(text)
    with replace_when_whole(HERE / "table.md") as path:
        path.write_text(text)
    write_figures(HERE / "study.json", {"metric": METRIC, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
