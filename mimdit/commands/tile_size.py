"""How much of an image to have in memory at once."""

import re
from pathlib import Path

import torch

_BYTES_PER_PIXEL = 2048
"""What working on a pixel takes in the embedded default; benchmarks/restore.py prints it."""
_SHARE = 0.25
_SMALLEST, _LARGEST = 256, {"cpu": 1024}
_UNKNOWN = 2 << 30
"""Bytes taken to be free where nobody tells."""


def tile_for_free_memory(device: torch.device, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Side in pixels, a multiple of 64, of the square whose area takes a quarter of the free memory of ``device``.

    At least 256; on a CPU at most 1024, above which nothing gets faster.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        told = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo.read_text(), re.MULTILINE) if meminfo.is_file() else None
        free = int(told[1]) << 10 if told else _UNKNOWN
    side = int((free * _SHARE / _BYTES_PER_PIXEL) ** 0.5) // 64 * 64
    return max(_SMALLEST, min(side, _LARGEST.get(device.type, side)))
