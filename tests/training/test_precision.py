"""Which CPUs emulate bf16, and what is said of it."""

from types import SimpleNamespace

import pytest
import torch

from mimdit.training import precision


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
    assert precision.emulates_bfloat16(path) is emulates


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
    monkeypatch.setattr(precision, "emulates_bfloat16", lambda: emulates)
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), precision=name)
    message = precision.slow_precision(trainer)
    assert (message is not None and "--trainer.precision=32-true" in message) is warned
