"""Seconds per megapixel of the embedded default, by sampler steps, size and precision.

Each restoration starts from pixels on the host and ends there. The first of every kind is not timed; the median of the rest is reported.

    python benchmarks/restore_speed.py [--megapixels 0.25 1 4] [--steps 0 4 28] [--tile 0] [--json restore_speed.json]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from figures import write_figures
from restore import noisy_photograph
from sd35_medium import device_name, synchronize

from mimdit.restorer.restorer import Restorer

DTYPES = {"fp32": None, "bf16": torch.bfloat16}


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0.25, 1, 4])
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 4, 28])
    parser.add_argument("--tile", type=int, default=0, help="side in pixels of the pieces; 0 for the whole image at once")
    parser.add_argument("--rounds", type=int, default=3, help="restorations that are timed")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


@torch.no_grad()
def measure(options: argparse.Namespace, device: torch.device) -> list[dict]:
    """Return a row of each precision, size and number of steps."""
    rows = []
    for precision, dtype in DTYPES.items():
        restorer = Restorer.from_pretrained(torch_dtype=dtype).to(device)
        for megapixels in options.megapixels:
            photograph = noisy_photograph(megapixels)
            pixels = photograph.shape[2] * photograph.shape[3] / 1e6
            for steps in options.steps:
                seconds = []
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                for _ in range(options.rounds + 1):
                    synchronize(device)
                    start = time.perf_counter()
                    restored = restorer.restore(photograph, steps=steps, tile=options.tile or None)
                    synchronize(device)
                    seconds.append(time.perf_counter() - start)
                assert restored.shape == photograph.shape and restored.isfinite().all()
                median = statistics.median(seconds[1:])
                row = {"precision": precision, "megapixels": pixels, "steps": steps, "seconds": median}
                row["seconds_per_megapixel"] = median / pixels
                if device.type == "cuda":
                    row["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
                rows.append(row)
                print(row, flush=True)
    return rows


def main() -> None:
    """Measure, print, and write the JSON."""
    options = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures = {"device": device_name(device), "torch": torch.__version__, "tile": options.tile, "rows": measure(options, device)}
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
