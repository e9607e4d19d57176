"""Assumptions of a plan: every number that is neither counted from the config nor given, with its value, its range and its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Assumption:
    """A number that a plan assumes.

    Attributes:
        best: Value that makes the run fastest or smallest.
        worst: Value that makes it slowest or largest; may equal ``best``.
        unit: Unit; empty for a share.
        reason: What it is, and where the value is from.
    """

    best: float
    worst: float
    unit: str
    reason: str


DEFAULTS = {
    "products": Assumption(0.75, 0.45, "", "share of the dense peak that matrix products and attention reach"),
    "traffic": Assumption(0.95, 0.70, "", "share of the memory's bandwidth that the other kernels reach"),
    "launch": Assumption(12.0, 45.0, "us", "host time of a kernel in eager mode; the second on one H100 (benchmarks/RESULTS.md)"),
    "fused_launches": Assumption(0.3, 0.7, "", "share of the launches that compiled blocks leave; not measured"),
    "fused_traffic": Assumption(0.5, 0.8, "", "share of the memory traffic that compiled blocks leave; not measured"),
    "links": Assumption(0.8, 0.8, "", "share of their nominal speed that NVLink and network reach"),
    "hidden": Assumption(1.0, 0.0, "", "share of the communication that runs beside computation"),
    "latency": Assumption(0.02, 0.15, "ms", "start of a collective"),
    "context": Assumption(0.6, 1.0, "GiB", "CUDA context and libraries, outside PyTorch's allocator"),
    "nccl": Assumption(0.5, 2.0, "GiB", "NCCL's buffers where there are several GPUs"),
    "fragments": Assumption(0.0, 0.05, "", "memory that the allocator reserves beyond live tensors"),
    "latent_sample": Assumption(1.0, 3.0, "ms", "core time of a sample of cached latents; not measured"),
    "decode": Assumption(50.0, 50.0, "ms", "core time to decode a pair of 1920 x 1080, measured (benchmarks/RESULTS.md)"),
    "crop_sample": Assumption(7.0, 7.0, "ms", "core time of each crop of a decoded pair, measured likewise"),
    "pair": Assumption(5.0, 5.0, "MB", "stored size of a pair of images"),
    "worth": Assumption(100.0, 100.0, "", "passes over the data after which more steps are hardly worth it"),
}  # fmt: skip
"""Assumptions by the names that ``--assume`` takes."""


def with_given(given: Mapping[str, str]) -> dict[str, Assumption]:
    """Return `DEFAULTS` with the values that the user gave.

    Args:
        given: Names with a value, or two with ``..`` between them: the best and the worst.

    Raises:
        ValueError: A name is unknown, or a value is not a number of at least 0.
    """
    assumed = dict(DEFAULTS)
    for name, text in given.items():
        if name not in DEFAULTS:
            raise ValueError(f"--assume {name}={text}: there is no such assumption; choose one of {', '.join(DEFAULTS)}")
        try:
            values = [float(word) for word in str(text).split("..")]
        except ValueError:
            values = []
        if len(values) not in (1, 2) or min(values) < 0:
            raise ValueError(f"--assume {name}={text} is no number of at least 0; write {name}=VALUE or {name}=BEST..WORST")
        if name in _POSITIVE and min(values) == 0:
            raise ValueError(f"--assume {name}={text}: nothing is ever done at this speed; give a share above 0")
        assumed[name] = Assumption(values[0], values[-1], DEFAULTS[name].unit, "given")
    return assumed


_POSITIVE = ("products", "traffic", "links")
