"""Figures of a step that ran on one GPU, which replace the predicted ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measured:
    """A step on one GPU.

    Attributes:
        seconds: Seconds of a step.
        peak: Bytes of live tensors at most; None where they were not measured.
        device: Name of the device; empty where it is not in the file.
    """

    seconds: float
    peak: float | None
    device: str


def read_measured(path: str | Path, images: int) -> Measured:
    """Return the figures in a JSON file: of ``benchmarks/sd35_step.py --json``, or ``seconds`` and ``peak_memory_gib`` by themselves.

    Args:
        path: The file.
        images: Images of a step of the config on one GPU; the file's ``batch_size``, if it has one, must be the same.

    Raises:
        ValueError: It is not such a file, or of another number of images.
    """
    try:
        figures: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        seconds, peak = figures["seconds"], figures.get("peak_memory_gib")
        seconds = float(seconds["step in a row"] if isinstance(seconds, dict) else seconds)
        batch = figures.get("batch_size", figures.get("options", {}).get("batch_size"))
        measured = Measured(seconds, None if peak is None else float(peak) * 2**30, str(figures.get("device", "")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--measured {path} holds no figures of a step ({error!r}); write one with benchmarks/sd35_step.py --json, or "
            '{"seconds": 0.3, "peak_memory_gib": 42.5, "batch_size": 16}'
        ) from error
    if batch is not None and int(batch) != images:
        raise ValueError(f"--measured {path} is of {batch} images a step, but the config has {images}; measure with --batch-size {images}")
    if not seconds > 0:
        raise ValueError(f"--measured {path} says that a step takes {seconds} s; it must take longer than 0")
    return measured
