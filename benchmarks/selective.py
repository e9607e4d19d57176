"""Removal of one degradation of a mixture (``mimdit restore --only``), against a truth that keeps the other.

    python benchmarks/selective.py --json selective.json

Each image is degraded by two atoms. The truth is the image with only the other atom, of the same amount and the same random draws. The
control is the restoration without ``only``. The images, the four test photographs and as many made scenes, were not used to choose the
method.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from figures import write_figures

from datamodules.degradations import degrade
from datamodules.synthetic.photographs import TEST, photograph_crop
from datamodules.synthetic.scenes import make_scene
from mimdit.core.batch import ATOMS
from mimdit.distributed.loading import load_restorer
from mimdit.evaluation.metrics import psnr
from mimdit.restorer.identification import check_identifies, identify
from mimdit.restorer.restorer import Restorer

PAIRS = ("haze_noise", "lowlight_noise", "haze_rain", "noise_jpeg", "lowlight_haze")
_FIRST_SCENE = 1000
"""Seed of the first made scene."""


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=PAIRS, help="two atoms each, joined by _")
    parser.add_argument("--severity", type=float, default=0.6, help="total severity of the two")
    parser.add_argument("--formulas", default="original", help="original or varied")
    parser.add_argument("--side", type=int, default=192, help="pixels of a side")
    parser.add_argument("--images", type=int, default=8, help="number of images, half of them photographs")
    parser.add_argument("--checkpoint", help="a .ckpt or a folder of mimdit export; by default the embedded weights")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def images(count: int, side: int) -> list[torch.Tensor]:
    """Return photographs and made scenes, ``[3, H, W]`` in 0..1."""
    photographs = [photograph_crop(name, side) for name in TEST[: count // 2]]
    scenes = [make_scene(side, seed=_FIRST_SCENE + index) for index in range(count - len(photographs))]
    return [_tensor(image) for image in (*photographs, *scenes)]


def _tensor(image: np.ndarray) -> torch.Tensor:
    values = image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def measure(restorer: Restorer, clean: list[torch.Tensor], pair: str, atom: str, options: argparse.Namespace) -> dict:
    """Return mean PSNR to the truth that keeps the other atom, and mean probabilities, of input, control and result."""
    (other,) = set(pair.split("_")) - {atom}
    rows = []
    for seed, image in enumerate(clean):
        given = degrade(image, pair, severity=options.severity, seed=seed, formulas=options.formulas)[None]
        truth = degrade(image, other, severity=options.severity / 2**0.5, seed=seed, formulas=options.formulas)[None]
        candidates = {"input": given, "control": restorer.restore(given), "only": restorer.restore(given, only=[atom])}
        found = {name: identify(restorer, candidate)[0].tolist() for name, candidate in candidates.items()}
        rows.append({name: (psnr(candidate, truth).item(), *found[name]) for name, candidate in candidates.items()})
    figures: dict = {"removed": atom, "kept": other, "images": len(rows)}
    for what, column in (("psnr", 0), ("removed_probability", 1 + ATOMS.index(atom)), ("kept_probability", 1 + ATOMS.index(other))):
        figures[what] = {name: mean(row[name][column] for row in rows) for name in rows[0]}
    figures["closer"] = sum(row["only"][0] > row["input"][0] for row in rows)
    return figures


def main() -> None:
    """Measure all pairs and print a table."""
    options = arguments()
    restorer = load_restorer(options.checkpoint)
    check_identifies(restorer)
    clean = images(options.images, options.side)
    print("| mixture | removed | PSNR: input | without `only` | with | closer than the input | p(kept): input | without `only` | with |")
    print("|---|---|---|---|---|---|---|---|---|")
    found = []
    for pair in options.pairs:
        for atom in pair.split("_"):
            figures = measure(restorer, clean, pair, atom, options)
            found.append({"pair": pair} | figures)
            cells = [f"{figures['psnr'][name]:.1f}" for name in ("input", "control", "only")]
            cells.append(f"{figures['closer']} of {figures['images']}")
            cells += [f"{figures['kept_probability'][name]:.2f}" for name in ("input", "control", "only")]
            print(f"| {pair.replace('_', ' + ')} | {atom} | {' | '.join(cells)} |", flush=True)
    settings = {name: getattr(options, name) for name in ("severity", "formulas", "side", "images")}
    write_figures(options.json, settings | {"checkpoint": options.checkpoint or "embedded", "figures": found})


if __name__ == "__main__":
    main()
