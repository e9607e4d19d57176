"""Cost of restoring, and the effect of pieces: memory and time against megapixels, seams, and quality against steps.

- Memory and time of the embedded default for photographs of some sizes, in pieces, and in one piece up to ``--whole-up-to`` megapixels,
  as in ``mimdit restore``, from 8-bit pixels to 8-bit pixels. Each size runs in its own process; memory is the peak of private memory above
  what the process held after a warm-up, and on a GPU the device's peak. Memory-mapped canvas files are reported separately, because the
  system reclaims their pages when memory is short.
- Seams: the largest difference from the restoration in one piece, and the seam energy of both restorations: the mean absolute jump across
  the borders of pieces, divided by the mean jump across all other rows. The same for the DiT's own tiles, with an image that fits its
  positions restored in one tile and in smaller ones.
- PSNR, SSIM and seconds of degraded photographs for 0 to 28 steps, from the estimate (the default) and from noise (the paper).

    python benchmarks/restore.py [--megapixels 1 4 16 48] [--tile 512] [--device cpu] [--json restore.json]
"""

from __future__ import annotations

import argparse
import ctypes
import math
import multiprocessing
import re
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from figures import write_figures

from datamodules.degradations.compose import degrade
from datamodules.synthetic.photographs import TEST, load_photograph, photograph_crop
from mimdit.conditioner.experts import SwinAttention
from mimdit.conditioner.piece import pieces
from mimdit.evaluation.metrics import psnr, ssim
from mimdit.restorer.pixels import restore_pixels
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.tiling import tile_starts

GROUPS = ("02Blur_Noise", "06JPEG", "08Haze", "14Lowlight", "18Lowlight_Blur_Noise")
SETTINGS = {"estimate": {}, "noise": {"start": "noise"}}
STEPS = (0, 1, 2, 4, 8, 28)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="*", default=[1, 4, 16, 48], help="sizes to restore")
    parser.add_argument("--whole-up-to", type=float, default=1, help="megapixels up to which the same is done in one piece, too")
    parser.add_argument("--tile", type=int, default=512, help="side in pixels of the square whose area is worked on at once")
    parser.add_argument("--size", type=int, default=256, help="side of the photographs that steps are measured on")
    parser.add_argument("--photographs", type=int, default=len(TEST), help="how many of them")
    parser.add_argument("--steps", type=int, nargs="*", default=STEPS, help="numbers of steps")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


class PeakMemory:
    """Peak private and mapped memory of this process, in bytes, sampled every 20 ms while the block runs (Linux)."""

    def __enter__(self) -> PeakMemory:
        self.private, self.mapped, self._done = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            now = memory_now()
            self.private, self.mapped = max(self.private, now["RssAnon"]), max(self.mapped, now["RssFile"] + now["RssShmem"])
            if self._done.wait(0.02):
                return


def memory_now() -> dict[str, int]:
    """Return the resident sizes of this process in bytes, by their names in ``/proc/self/status``."""
    return {name: int(kb) << 10 for name, kb in re.findall(r"^(Rss\w+):\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)}


def noisy_photograph(megapixels: float) -> torch.Tensor:
    """Return ``[1, 3, H, W]``, aspect ratio 3:2: an enlarged photograph with full-resolution noise."""
    height = round(math.sqrt(megapixels * 1e6 / 1.5))
    image = cv2.resize(load_photograph("coffee"), (round(height * 1.5), height), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(0).standard_normal(image.shape, dtype=np.float32)
    return torch.from_numpy(np.clip(image / np.float32(255) + 0.08 * noise, 0, 1)).permute(2, 0, 1)[None]


def cost(megapixels: float, tile: int | None, device: str) -> dict:
    """Return seconds and peak MiB of one restoration in this process."""
    restorer = Restorer.from_pretrained().to(device)
    restorer.restore(torch.rand(1, 3, 64, 64).to(device))
    pixels = (noisy_photograph(megapixels)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    ctypes.CDLL(None).malloc_trim(0)
    before = memory_now()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    with PeakMemory() as peak:
        restored = restore_pixels(restorer, pixels, tile=tile)
    assert restored.shape == pixels.shape
    figures = {"megapixels": megapixels, "tile": tile, "seconds": time.perf_counter() - began}
    figures["private_mib"] = (peak.private - before["RssAnon"]) / 2**20
    figures["mapped_mib"] = (peak.mapped - before["RssFile"] - before["RssShmem"]) / 2**20
    figures["image_mib"] = pixels.nbytes / 2**20
    if device.startswith("cuda"):
        figures["device_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return figures


def costs(options: argparse.Namespace) -> list[dict]:
    """Measure each size in a process of its own, because a process's peak never falls."""
    jobs = [(size, options.tile) for size in options.megapixels]
    jobs += [(size, None) for size in options.megapixels if size <= options.whole_up_to]
    figures = []
    for size, tile in jobs:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures.append(pool.apply(cost, (size, tile, options.device)))
        print(line_of_cost(figures[-1]), flush=True)
    return figures


def line_of_cost(row: dict) -> str:
    """Return a row of the first table."""
    device = f"{row['device_mib']:.0f}" if "device_mib" in row else "-"
    pieces = "one piece" if row["tile"] is None else f"pieces of {row['tile']}²"
    memory = f"{row['private_mib']:.0f} | {row['image_mib']:.0f} | {row['mapped_mib']:.0f} | {device}"
    return f"| {row['megapixels']:g} | {pieces} | {row['seconds']:.1f} | {memory} |"


def jumps(images: torch.Tensor, rows: list[int]) -> float:
    """Return the mean absolute difference across the upper borders of ``rows``, divided by the mean across all others."""
    steps = (images[:, :, 1:] - images[:, :, :-1]).abs().mean(dim=(0, 1, 3))
    chosen = torch.zeros(len(steps), dtype=torch.bool)
    chosen[[row - 1 for row in rows]] = True
    return float(steps[chosen].mean() / steps[~chosen].mean())


def seams(options: argparse.Namespace) -> dict:
    """Compare pieces with one piece, and small tiles of the DiT with one tile."""
    restorer, photograph = Restorer.from_pretrained().to(options.device), noisy_photograph(0.25)
    conditioner, figures = restorer.conditioner, {}
    tile = 128
    height, width = (-(-size // conditioner.multiple) * conditioner.multiple for size in photograph.shape[2:])
    grid = {"area": tile**2 // conditioner.patch_size**2, "multiple": conditioner.multiple // conditioner.patch_size}
    halo = SwinAttention.window * conditioner.moe_stride
    cut = pieces(height // conditioner.patch_size, width // conditioner.patch_size, **grid, halo=halo)
    borders = sorted({piece.down.start * conditioner.patch_size for piece in cut} - {0})
    whole, together = restorer.restore(photograph), restorer.restore(photograph, tile=tile)
    figures["pieces"] = {"borders": len(borders), "difference": float((whole - together).abs().max())}
    figures["pieces"] |= {"seam_energy": jumps(together, borders), "seam_energy_in_one_piece": jumps(whole, borders)}

    square = noisy_photograph(0.25)[:, :, 60:316, 60:316]
    for name, settings in SETTINGS.items():
        whole = restorer.restore(square, 4, **settings)
        restorer.tile, restorer.overlap, kept = 128, 32, (restorer.tile, restorer.overlap)
        small = restorer.restore(square, 4, **settings)
        restorer.tile, restorer.overlap = kept
        starts = tile_starts(256, 128, 32, restorer.backbone.token_patch)
        edges = sorted({*starts[1:], *(start + 128 for start in starts[:-1])})
        row = {"borders": len(edges), "difference": float((whole - small).abs().max())}
        figures[f"DiT tiles, from {name}"] = row | {"seam_energy": jumps(small, edges), "seam_energy_in_one_piece": jumps(whole, edges)}
    return figures


def quality(options: argparse.Namespace) -> list[dict]:
    """Return PSNR, SSIM and seconds per image, over photographs and groups."""
    restorer = Restorer.from_pretrained().to(options.device)
    truths = [photograph_crop(name, options.size).astype(np.float32) / 255 for name in TEST[: options.photographs]]
    pairs = [(degrade(truth, group, severity=0.6, seed=1), truth) for truth in truths for group in GROUPS]
    degraded, clean = (torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2) for side in zip(*pairs))
    rows = [{"start": "the input itself", "steps": 0} | scores(degraded, clean)]
    for steps in options.steps:
        for name, settings in SETTINGS.items():
            if steps == 0 and name == "noise":
                continue
            began = time.perf_counter()
            restored = torch.cat([restorer.restore(image[None], steps, **settings) for image in degraded])
            seconds = (time.perf_counter() - began) / len(degraded)
            rows.append({"start": name, "steps": steps, "seconds": seconds} | scores(restored, clean))
    return rows


def scores(images: torch.Tensor, clean: torch.Tensor) -> dict:
    """Return mean PSNR and SSIM."""
    return {"psnr": float(psnr(images, clean).mean()), "ssim": float(ssim(images, clean).mean())}


def report(figures: dict) -> str:
    """Return the tables."""
    lines = ["| restoration | borders | greatest difference | seam energy | of one piece |", "|---|---|---|---|---|"]
    for name, row in figures["seams"].items():
        energies = f"{row['seam_energy']:.4f} | {row['seam_energy_in_one_piece']:.4f}"
        lines.append(f"| {name} | {row['borders']} | {row['difference']:.1e} | {energies} |")
    lines += ["", "| start | steps | PSNR | SSIM | seconds, of the estimate's alone |", "|---|---|---|---|---|"]
    alone = next((row["seconds"] for row in figures["quality"] if row["steps"] == 0 and "seconds" in row), None)
    for row in figures["quality"]:
        ratio = f"{row['seconds'] / alone:.2f}" if alone and "seconds" in row else "-"
        lines.append(f"| {row['start']} | {row['steps']} | {row['psnr']:.2f} | {row['ssim']:.3f} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    options = arguments()
    head = ["megapixels", "worked on in", "seconds", "peak MiB", "the image, MiB", "canvases in files, MiB", "on the device, MiB"]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    figures = {"device": options.device, "costs": costs(options), "seams": seams(options), "quality": quality(options)}
    print("\n" + report(figures))
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
