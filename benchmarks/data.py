"""Throughput of the training stream against a bare loop over the same bytes, and the cost of starting and resuming it.

Make look-alikes of FoundIR's pairs (1920 x 1080, PNG and JPEG as in its archives), convert them with ``mimdit shards foundir`` to whole
images and to tiles, and measure in one run, with one thread each:

- crops/s/core of the stream in this process, of a bare loop (read the tar from front to back, decode both images, crop), and of random
  reading of the unpacked files; for whole images, for several crops per image, and for tiles. The loops take turns; medians are reported.
- Seconds to the first batch, after a start and after a resumption in mid-epoch.
- Memory of a worker process at the end of each of twelve epochs.

    python benchmarks/data.py [--pairs 48] [--crop 512] [--rounds 5] [--folder DIR] [--json data.json]
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import webdataset
from figures import write_figures

from datamodules.augmentation import crop_and_flip
from datamodules.collation import collate
from datamodules.decoding import Pair, decode_image
from datamodules.rng import named_rng
from datamodules.shards import ShardIndex
from datamodules.streaming.order import SampleOrder
from datamodules.streaming.partition import Progress
from datamodules.streaming.stream import StreamLoader, TrainStream
from datamodules.synthetic.scenes import make_scene
from mimdit.commands.convert import foundir

GROUPS = {"01Blur": ("png", "png"), "06JPEG": ("png", "jpg"), "08Haze": ("jpg", "jpg")}
"""Groups and the formats of their ground truths and degraded images."""

GPU_CROPS = 226.0
"""512-pixel crops per second that one fast GPU consumes in training; the reported number of cores is for this rate."""


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=48, help="look-alike pairs to make")
    parser.add_argument("--crop", type=int, default=512, help="side of the training crop in pixels, and of the tiles")
    parser.add_argument("--rounds", type=int, default=5, help="times that each loop runs")
    parser.add_argument("--folder", type=Path, help="keep the data here, and reuse it; a temporary folder by default")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


def make_source(folder: Path, pairs: int) -> None:
    """Write ``<group>/{GT,LQ}/<stem>.<suffix>``: scenes of 1920 x 1080 with a camera's noise, and slightly blurred ones."""
    for number in range(pairs):
        group = list(GROUPS)[number % len(GROUPS)]
        scene = np.tile(make_scene(1080, seed=number), (1, 2, 1))[:, :1920].astype(np.float32)
        clean = np.clip(scene + named_rng("grain", number).normal(0.0, 2.0, scene.shape), 0, 255).astype(np.uint8)
        for side, suffix, image in zip(("GT", "LQ"), GROUPS[group], (clean, cv2.GaussianBlur(clean, (0, 0), 1.5))):
            path = folder / group / side / f"{number:07d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95])


def stream_loop(index: ShardIndex, crop: int, crops: int) -> Iterator[int]:
    """Run the full stream in this process; yield the number of pairs in each batch."""
    stream = TrainStream(SampleOrder(index, seed=0), batch_size=8, crop=crop, crops=crops)
    for batch in StreamLoader(stream, Progress(1)):
        yield len(batch["key"])


def bare_loop(index: ShardIndex, crop: int, crops: int) -> Iterator[int]:
    """Read each tar from front to back, decode both images, crop, stack: the upper bound of any stream's speed."""
    rng, pairs = np.random.default_rng(0), []
    tars = [str(index.path(shard)) for shard in index.shards]
    while True:
        for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False):
            lq, gt = (next(data for name, data in sample.items() if name.startswith(side)) for side in ("lq.", "gt."))
            pairs += cut(sample["__key__"], lq, gt, crop, crops, rng)
            if len(pairs) >= 8:
                yield len(collate(pairs[:8])["key"])
                pairs = pairs[8:]


def file_loop(source: Path, crop: int, crops: int) -> Iterator[int]:
    """Read the unpacked files in random order, two per pair; yield the number of pairs in each batch."""
    rng, pairs = np.random.default_rng(0), []
    stems = {path.stem: path for path in source.glob("*/GT/*")}
    partners = {path.stem: path for path in source.glob("*/LQ/*")}
    while True:
        for stem in rng.permutation(sorted(stems)):
            pairs += cut(stem, partners[stem].read_bytes(), stems[stem].read_bytes(), crop, crops, rng)
            if len(pairs) >= 8:
                yield len(collate(pairs[:8])["key"])
                pairs = pairs[8:]


def cut(key: str, lq: bytes, gt: bytes, crop: int, crops: int, rng: np.random.Generator) -> list[Pair]:
    """Decode a pair and cut its crops."""
    pair = Pair(key, "01Blur", decode_image(lq, "lq"), decode_image(gt, "gt"), np.zeros(7, np.float32))
    return [crop_and_flip(pair, crop, rng) for _ in range(crops)]


def rates(loops: dict[str, Callable[[], Iterator[int]]], images: int, rounds: int) -> dict[str, float]:
    """Return median crops/s of each loop over ``images`` crops, interleaved."""
    running, measured = {name: make() for name, make in loops.items()}, {name: [] for name in loops}
    for _ in range(rounds + 1):
        for name, loop in running.items():
            started, count = time.perf_counter(), 0
            while count < images:
                count += next(loop)
            measured[name].append(count / (time.perf_counter() - started))
    return {name: statistics.median(values[1:]) for name, values in measured.items()}


def first_batch(index: ShardIndex, crop: int, progress: Progress) -> float:
    """Return seconds from making a loader with one worker to its first batch."""
    started = time.perf_counter()
    stream = TrainStream(SampleOrder(index, seed=0), batch_size=8, crop=crop, num_workers=1)
    batches = iter(StreamLoader(stream, progress, num_workers=1, multiprocessing_context="fork"))
    next(batches)
    seconds = time.perf_counter() - started
    batches.close()
    return seconds


def worker_memory(index: ShardIndex, crop: int, epochs: int = 12) -> list[float]:
    """Return the private MiB of a worker process at the end of each epoch."""
    stream = TrainStream(SampleOrder(index, seed=0), batch_size=4, crop=crop, num_workers=1)
    # Spawned: a forked worker gradually copies its parent's pages, which is not growth of the stream.
    batches = iter(StreamLoader(stream, Progress(1), num_workers=1, multiprocessing_context="spawn"))
    found = []
    for _ in range(epochs):
        for _ in itertools.islice(batches, index.samples // 4):
            pass
        (worker,) = multiprocessing.active_children()
        rollup = Path(f"/proc/{worker.pid}/smaps_rollup").read_text().splitlines()
        found.append(sum(int(line.split()[1]) for line in rollup if line.startswith("Private_")) / 1024)
    return found


def measure(folder: Path, options: argparse.Namespace) -> dict:
    """Make the data and run all measurements."""
    source, whole, tiles = folder / "source", folder / "whole", folder / "tiles"
    if not source.is_dir():
        make_source(source, options.pairs)
    foundir(str(source), str(whole), shard_size=32, workers=1)
    foundir(str(source), str(tiles), shard_size=32, tile=options.crop, workers=1)
    figures: dict = {"crop": options.crop, "pairs": options.pairs, "throughput": {}}
    for name, place, crops in (("whole images", whole, 1), ("4 crops an image", whole, 4), (f"tiles of {options.crop}", tiles, 1)):
        index = ShardIndex.load(place)
        loops = {
            "stream": lambda index=index, crops=crops: stream_loop(index, options.crop, crops),
            "bare loop": lambda index=index, crops=crops: bare_loop(index, options.crop, crops),
        }
        if place == whole:
            loops["unpacked files"] = lambda crops=crops: file_loop(source, options.crop, crops)
        figures["throughput"][name] = rates(loops, 24 if crops == 1 else 64, options.rounds)
    figures["gib"] = {place.name: sum(shard.bytes for shard in ShardIndex.load(place).shards) / 2**30 for place in (whole, tiles)}
    index = ShardIndex.load(whole)
    middle = Progress(1)
    middle.positions = [(0, index.samples // 2 + 1)]
    turns = [(first_batch(index, options.crop, Progress(1)), first_batch(index, options.crop, middle)) for _ in range(options.rounds)]
    figures["first_batch_s"], figures["resumed_batch_s"] = (statistics.median(column) for column in zip(*turns))
    figures["worker_mib"] = worker_memory(index, options.crop)
    return figures


def report(figures: dict) -> str:
    """Return the figures as a table and some lines."""
    lines = ["| data | stream, crops/s/core | of the bare loop | of unpacked files, at random | cores for one GPU |"]
    lines.append("|---|---|---|---|---|")
    for name, row in figures["throughput"].items():
        files = f"{row['stream'] / row['unpacked files']:.2f}" if "unpacked files" in row else "-"
        cores = GPU_CROPS / row["stream"]
        lines.append(f"| {name} | {row['stream']:.1f} | {row['stream'] / row['bare loop']:.2f} | {files} | {cores:.0f} |")
    ratio = figures["resumed_batch_s"] / figures["first_batch_s"]
    memory = ", ".join(f"{value:.0f}" for value in figures["worker_mib"])
    return "\n".join(
        [
            *lines,
            f"first batch {figures['first_batch_s']:.2f} s; resumed in mid-epoch {figures['resumed_batch_s']:.2f} s, {ratio:.2f} of it",
            f"private memory of a worker at the end of each epoch, MiB: {memory}",
            f"disk: whole {figures['gib']['whole']:.3f} GiB, tiles {figures['gib']['tiles']:.3f} GiB",
        ]
    )


def main() -> None:
    """Measure and print."""
    options = arguments()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(options.folder or Path(temporary), options)
    print(report(figures))
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
