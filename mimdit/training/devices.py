"""Arithmetic speed of devices: the dense peak of GPUs, and CPUs that emulate bf16.

Peaks are from the manufacturers' data sheets, whose figures "with sparsity" are twice as high and do not apply to training.
"""

from __future__ import annotations

import re
from pathlib import Path

import lightning as L
import torch

PEAKS = {
    #           16 bit  TF32    FP32
    "A10":      (125.0, 62.5, 31.2),
    "A30":      (165.0, 82.0, 10.3),
    "A40":      (149.7, 74.8, 37.4),
    "A100":     (312.0, 156.0, 19.5),
    "A800":     (312.0, 156.0, 19.5),
    "H100":     (989.4, 494.7, 66.9),
    "H100 NVL": (835.5, 417.5, 60.0),
    "H100 PCIE": (756.0, 378.0, 51.2),
    "H200":     (989.4, 494.7, 66.9),
    "H200 NVL": (835.5, 417.5, 60.0),
    "GH200":    (989.4, 494.7, 66.9),
    "B200":     (2250.0, 1125.0, 75.0),
    "GB200":    (2500.0, 1250.0, 80.0),
    "L4":       (121.0, 60.0, 30.3),
    "L40":      (181.0, 90.5, 90.5),
    "L40S":     (362.0, 183.0, 91.6),
    "RTX 3090": (71.0, 35.6, 35.6),
    "RTX 4090": (165.2, 82.6, 82.6),
    "RTX A6000": (154.8, 77.4, 38.7),
    "MI250X":   (191.5, None, 47.9),  # of one of its two dies, which is one device
    "MI300X":   (1307.4, 653.7, 163.4),
}  # fmt: skip
"""Dense TFLOP/s by words of the device's name: bf16 or fp16, TF32, and fp32 without TF32. The entry with most matching words applies."""

_OTHER_MODELS = {"MIG", "LAPTOP", "D", "TI"}
"""Words that name a slice of a device, or another model."""

_CPUINFO = Path("/proc/cpuinfo")


def peak_flops(name: str, precision: str) -> float | None:
    """Return the dense peak of a device in FLOP/s, or None where it is not in the table.

    Args:
        name: Name of the device as returned by ``torch.cuda.get_device_name``, such as ``NVIDIA H100 80GB HBM3``.
        precision: The Trainer's precision, such as ``bf16-mixed``; fp32 counts as TF32 where `torch.set_float32_matmul_precision` allows
            that.
    """
    words = set(re.split(r"[\s\-]+", name.upper()))
    fitting = [entry for entry in PEAKS if words.issuperset(entry.split())]
    if not fitting or words & _OTHER_MODELS:
        return None
    half, tf32, single = PEAKS[max(fitting, key=lambda entry: len(entry.split()))]
    if precision.startswith(("bf16", "16")):
        return half * 1e12
    if not precision.startswith("32"):
        return None
    return (single if tf32 is None or torch.get_float32_matmul_precision() == "highest" else tf32) * 1e12


def emulates_bfloat16(cpuinfo: Path = _CPUINFO) -> bool:
    """Return true on an x86 CPU without bf16 instructions (AVX512-BF16 or AMX), on which PyTorch emulates them several times slower.

    Without ``cpuinfo``, or on other architectures, return false.
    """
    if not cpuinfo.is_file():
        return False
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    return flags is not None and not {"avx512_bf16", "amx_bf16"} & set(flags[1].split())


def slow_precision(trainer: L.Trainer) -> str | None:
    """Return a warning where the trainer would compute bf16 on a CPU that emulates it, else None."""
    if trainer.strategy.root_device.type != "cpu" or not str(trainer.precision).startswith("bf16") or not emulates_bfloat16():
        return None
    return (
        f"trainer.precision is {trainer.precision}, but this CPU has no bf16 instructions: training takes several times as long as in "
        "fp32. Add --trainer.precision=32-true."
    )
