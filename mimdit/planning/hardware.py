"""GPUs of a plan: memory, bandwidth, links and arithmetic speed, by the manufacturers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from mimdit.training.devices import peak_flops


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: Its entry in `mimdit.training.devices.PEAKS`.
        memory: Bytes that a process can allocate.
        bandwidth: Bytes/s of its memory.
        nvlink: Bytes/s out of it, one way, to the other GPUs of its node: NVLink, or PCIe where it has none.
        capability: Major and minor CUDA capability.
    """

    name: str
    memory: int
    bandwidth: float
    nvlink: float
    capability: tuple[int, int]

    def speed(self, precision: str) -> float:
        """Return FLOP/s of dense matrix products in ``half`` (16 bit) or ``single`` precision."""
        speed = peak_flops(self.name, "bf16-mixed" if precision == "half" else "32-true")
        assert speed is not None, f"{self.name} is in the table"
        return speed


_GIB = 2**30
GPUS = {
    "a100-40": Gpu("A100", int(39.4 * _GIB), 1.555e12, 300e9, (8, 0)),
    "a100": Gpu("A100", int(79.1 * _GIB), 2.039e12, 300e9, (8, 0)),
    "h100": Gpu("H100", int(79.1 * _GIB), 3.35e12, 450e9, (9, 0)),
    "h100-pcie": Gpu("H100 PCIE", int(79.1 * _GIB), 2.0e12, 64e9, (9, 0)),
    "h200": Gpu("H200", int(139.8 * _GIB), 4.8e12, 450e9, (9, 0)),
    "b200": Gpu("B200", int(178.0 * _GIB), 7.7e12, 900e9, (10, 0)),
    "l40s": Gpu("L40S", int(44.4 * _GIB), 0.864e12, 32e9, (8, 9)),
    "rtx4090": Gpu("RTX 4090", int(23.5 * _GIB), 1.008e12, 32e9, (8, 9)),
}
"""GPUs by the name that ``--gpu`` takes."""


def find_gpu(name: str) -> Gpu:
    """Return a GPU by name.

    Raises:
        ValueError: It is not in `GPUS`.
    """
    if name.lower() not in GPUS:
        raise ValueError(f"--gpu {name} is not in the table; choose one of {', '.join(GPUS)}")
    return GPUS[name.lower()]
