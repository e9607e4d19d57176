"""Everything that needs a GPU, in steps of minutes: tests, measurements and a training.

    python -m benchmarks.gpu tests dispatch sd35 --out FOLDER
    python -m benchmarks.gpu train --out FOLDER --data data/estimate --seconds 480 [--resume FOLDER] [--fit=--data.batch_size=64 …]
    python -m benchmarks.gpu all --out FOLDER --tiny     # rehearsal on a CPU

Each step writes FOLDER/STEP.json with device, version of torch, seconds and figures. A step that fails writes its error there; the others
still run, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.gpu.steps import STEPS, Options, run_step


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="+", choices=[*STEPS, "all"], metavar="STEP", help=f"{', '.join(STEPS)}, or all")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, also for a CPU")
    parser.add_argument("--limit", type=float, default=540, help="seconds after which a step is stopped")
    parser.add_argument("--seconds", type=float, default=420, help="train: seconds of training")
    parser.add_argument("--config", default="configs/default.yaml", help="train: its config")
    parser.add_argument("--data", help="train: folder with train/ and validation/ shards; made in FOLDER/data if left out")
    parser.add_argument("--resume", type=Path, help="train: FOLDER of an earlier training to continue")
    parser.add_argument(
        "--fit", action="append", default=[], metavar="OPTION", help="train: further option of mimdit fit, as --fit=--data.crop=96"
    )
    return parser.parse_args()


def main() -> None:
    """Run the steps; exit with 1 if one failed."""
    given = arguments()
    options = Options(
        given.out.resolve(),
        given.tiny,
        given.limit,
        given.seconds,
        given.config,
        given.data,
        given.resume and given.resume.resolve(),
        tuple(given.fit),
    )
    names = list(STEPS) if "all" in given.steps else list(dict.fromkeys(given.steps))
    failed = [name for name in names if not run_step(name, options)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see the error in each one's JSON in {options.out}")


if __name__ == "__main__":
    main()
