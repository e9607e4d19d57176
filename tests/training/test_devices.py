"""Dense peaks by name and precision, and CPUs that emulate bf16."""

from types import SimpleNamespace

import pytest
import torch

from mimdit.training import devices
from mimdit.training.devices import PEAKS, peak_flops


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),  # lightning 2.6.6 has twice this
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA GB200", 2500),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_names_as_devices_give_them(name, peak):
    assert peak_flops(name, "bf16-mixed") == peak_flops(name, "16-true") == pytest.approx(peak * 1e12)


@pytest.mark.parametrize(
    "name", ["cpu", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A1000", "NVIDIA GeForce RTX 3090 Ti"]
)
def test_other_devices_and_slices_of_them_are_unknown(name):
    assert peak_flops(name, "bf16-mixed") is None


def test_fp32_is_tf32_where_that_is_allowed():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert peak_flops("NVIDIA A100-SXM4-80GB", "32-true") == 19.5e12
        torch.set_float32_matmul_precision("high")
        assert peak_flops("NVIDIA A100-SXM4-80GB", "32-true") == 156e12
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_precision_without_an_entry_is_unknown():
    assert peak_flops("NVIDIA H100 80GB HBM3", "64-true") is None
    assert peak_flops("NVIDIA H100 80GB HBM3", "transformer-engine") is None


def test_sixteen_bits_are_at_most_sixteen_times_and_at_least_twice_as_fast_as_tf32():
    """Dense TF32 runs at half the rate of 16 bit: a sparse figure in one column would show."""
    for half, tf32, single in PEAKS.values():
        if tf32 is not None:
            assert half / tf32 == pytest.approx(2, rel=0.02)
        assert 1.9 <= half / single <= 32


@pytest.mark.parametrize(
    ("content", "emulates"),
    [
        ("model name : A\nflags\t\t: fpu sse avx2 fma\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16\n", False),
        ("flags : avx512f amx_bf16 amx_tile\n", False),
        ("Features : fp asimd bf16\n", False),  # not x86: nothing is known
        (None, False),
    ],
)
def test_the_flags_of_the_cpu_tell(tmp_path, content, emulates):
    path = tmp_path / "cpuinfo"
    if content is not None:
        path.write_text(content)
    assert devices.emulates_bfloat16(path) is emulates


@pytest.mark.parametrize(
    ("device", "name", "emulates", "warned"),
    [
        ("cpu", "bf16-mixed", True, True),
        ("cpu", "bf16-true", True, True),
        ("cpu", "32-true", True, False),
        ("cpu", "bf16-mixed", False, False),
        ("meta", "bf16-mixed", True, False),
    ],
)
def test_only_bf16_on_a_cpu_without_it_is_warned_of(monkeypatch, device, name, emulates, warned):
    monkeypatch.setattr(devices, "emulates_bfloat16", lambda: emulates)
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), precision=name)
    message = devices.slow_precision(trainer)
    assert (message is not None and "--trainer.precision=32-true" in message) is warned
