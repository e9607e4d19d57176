"""What a CPU makes of bf16: some compute it in hardware, on others PyTorch emulates it, several times slower than fp32."""

import re
from pathlib import Path

import lightning as L

_CPUINFO = Path("/proc/cpuinfo")


def emulates_bfloat16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether this is an x86 CPU without bf16 instructions (AVX512-BF16 or AMX); False where ``cpuinfo`` does not tell."""
    if not cpuinfo.is_file():
        return False
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    return flags is not None and not {"avx512_bf16", "amx_bf16"} & set(flags[1].split())


def slow_precision(trainer: L.Trainer) -> str | None:
    """A warning where a trainer would compute bf16 on a CPU that emulates it, else None."""
    if trainer.strategy.root_device.type != "cpu" or not str(trainer.precision).startswith("bf16") or not emulates_bfloat16():
        return None
    return (
        f"trainer.precision is {trainer.precision}, but this CPU has no bf16 instructions: training takes several times as long as in "
        "fp32. Add --trainer.precision=32-true."
    )
