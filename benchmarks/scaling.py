"""Scaling of the SD3.5-medium run: bytes, memory and speed of 8, 64 and 512 GPUs, a 400 Gb/s port each, as `mimdit plan` gives them.

Counted on shapes, through the strategies' own sharding: collectives with their padding, memory. Predicted from the counts by the plan's
assumptions (``mimdit plan`` prints them): time, as a range. Efficiency is the images per second of n GPUs over n times those of one GPU,
both at the same end of the range. Measured: the same work over 1, 2 and 4 processes of this machine's CPU (``--measure``).

    python benchmarks/scaling.py [--measure] [--json benchmarks/scaling.json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from figures import write_figures
from scaling_ranks import IMAGES, measure

CONFIGS = Path(__file__).parents[1] / "configs"
CONFIG = CONFIGS / "foundir_sd35_medium.yaml"
GPUS = (8, 64, 512)
NODE = 8
STRATEGIES = {"ddp": (), "fsdp2": (CONFIGS / "fsdp2.yaml",), "hsdp": (CONFIGS / "hsdp.yaml",)}
"""Config files that follow the run's own."""
BACKBONE = "--model.init_args.backbone.init_args"
TRANSFORMERS = {"frozen": (), "trained": (f"{BACKBONE}.trainable=true", f"{BACKBONE}.dtype=float32")}
"""Options of ``mimdit fit``."""
LINK = 400.0
"""Gb/s of a GPU to other nodes."""


def make_plan(configs: list[Path], options: tuple[str, ...], nodes: int, gpus: int) -> dict:
    """Return the plan of a run as ``mimdit plan --json`` prints it.

    Raises:
        subprocess.CalledProcessError: The plan failed; its message is on stderr.
    """
    named = [word for config in configs for word in ("--config", str(config))]
    command = [sys.executable, "-m", "mimdit", "plan", *named, "--nodes", str(nodes), "--gpus", str(gpus), "--link", str(LINK)]
    command += ["--json", "--", *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def efficiency(alone: list[float], together: list[float], gpus: int) -> list[float]:
    """Return the images per second of a GPU among ``gpus`` over those of one GPU, at the worst and the best end of the predictions."""
    return [each / (gpus * single) for single, each in zip(alone, together, strict=True)]


def predict(config: Path, options: list[str], strategies: list[str], transformers: list[str], numbers: list[int]) -> list[dict]:
    """Return a row for each transformer, strategy and number of GPUs."""
    rows = []
    for transformer in transformers:
        given = (*TRANSFORMERS[transformer], *options)
        alone = make_plan([config], given, 1, 1)["step"]["images_per_second"]
        for strategy in strategies:
            for gpus in numbers:
                plan = make_plan([config, *STRATEGIES[strategy]], given, gpus // NODE, NODE)
                speed, moved = plan["step"]["images_per_second"], plan["bytes"]
                rows.append({
                    "transformer": transformer, "strategy": strategy, "gpus": gpus, "peak_gib": plan["memory"]["peak_gib"],
                    "verdict": plan["memory"]["verdict"], "out_of_gpu_gb": moved["out_of_gpu_gb"], "padding": moved["padding"],
                    "over_network_gb": moved["over_network_gb"], "hiding_network_gbit": moved["hiding_network_gbit"],
                    "images_per_second": speed, "efficiency": efficiency(alone, speed, gpus),
                })  # fmt: skip
    return rows


def report(figures: dict) -> str:
    """Return the figures as tables."""
    lines = [
        "| transformer | strategy | GPUs | GiB a GPU | padding | GB out of a GPU a step | of it between nodes | Gb/s that hide it | "
        "images/s | efficiency |",
        "|" + "---|" * 10,
    ]
    for row in figures["predicted"]:
        memory = f"{row['peak_gib']:.1f}{'' if row['verdict'] == 'fits' else ', ' + row['verdict']}"
        cells = [row["transformer"], row["strategy"], str(row["gpus"]), memory, f"{row['padding']:.3f}", f"{row['out_of_gpu_gb']:.3g}"]
        cells += [f"{row['over_network_gb']:.3g}", _span(row["hiding_network_gbit"], ".3g") if row["over_network_gb"] else "-"]
        cells += [_span(row["images_per_second"], ",.0f"), _span(row["efficiency"], ".2f")]
        lines.append(f"| {' | '.join(cells)} |")
    if "measured" in figures:
        lines += [
            "",
            "| strategy | processes | ms a step | speed-up | CPU ms of all processes a step | over one process's |",
            "|---|---|---|---|---|---|",
        ]
        for strategy, counts in figures["measured"].items():
            first = next(iter(counts.values()))
            for number, found in counts.items():
                ratios = first["wall"] / found["wall"], found["cpu"] / first["cpu"]
                lines.append(
                    f"| {strategy} | {number} | {1e3 * found['wall']:.0f} | {ratios[0]:.2f} | {1e3 * found['cpu']:.0f} | {ratios[1]:.2f} |"
                )
        lines.append(f"\n{IMAGES} images a step over all processes; {figures['cores']} cores, load {figures['load']} before and after.")
    return "\n".join(lines)


def _span(ends: list[float], form: str) -> str:
    low, high = sorted(ends)
    return f"{low:{form}} to {high:{form}}"


def main() -> None:
    """Count, predict, optionally measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG, help="config of the run")
    parser.add_argument("--option", action="append", default=[], help="further option of fit, such as --option=--data.batch_size=8")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--transformers", nargs="+", choices=TRANSFORMERS, default=list(TRANSFORMERS))
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS, help="numbers of GPUs, multiples of 8")
    parser.add_argument("--measure", action="store_true", help="also measure 1, 2 and 4 processes on this machine's CPU")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="the numbers of processes that --measure takes")
    parser.add_argument("--steps", type=int, default=12, help="steps that --measure counts")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    try:
        predicted = predict(given.config, given.option, given.strategies, given.transformers, given.gpus)
    except subprocess.CalledProcessError as error:  # the plan has printed its error
        sys.exit(error.returncode)
    figures = {"predicted": predicted, "link": LINK, "torch": torch.__version__}
    if given.measure:
        before = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            figures["measured"] = measure(Path(folder), given.processes, given.steps)
        figures |= {"cores": len(os.sched_getaffinity(0)), "load": [round(before, 1), round(os.getloadavg()[0], 1)]}
    print(report(figures))
    write_figures(given.json, figures)


if __name__ == "__main__":
    main()
