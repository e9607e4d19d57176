"""Memory as logged."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from callbacks import Memory
from callbacks.memory import memory_gib
from tests.callbacks.dummy import DummyRestorer, events, loader, trainer


def test_the_resident_set_is_logged_and_grows_with_what_is_touched(tmp_path):
    trainer(tmp_path, Memory(every_n_steps=2), max_steps=4).fit(DummyRestorer(), loader())
    logged = events(tmp_path).Scalars("memory/resident_gib")
    assert [entry.step for entry in logged] == [2, 4]
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    assert logged[-1].value == pytest.approx(int(status["VmRSS"].split()[0]) / 2**20, rel=0.1)
    before = memory_gib(torch.device("cpu"))["memory/resident_gib"]
    held = torch.ones(2**26)  # 256 MiB
    assert memory_gib(torch.device("cpu"))["memory/resident_gib"] - before == pytest.approx(held.nbytes / 2**30, abs=0.02)


def test_peaks_of_a_cuda_device_are_those_since_the_last_record(monkeypatch):
    """PyTorch's functions are replaced, so no device is needed."""
    logged, peak = [], {"allocated": 0}
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.update(allocated=0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak["allocated"])
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 2 * peak["allocated"])
    monkeypatch.setattr(torch, "tensor", lambda values, device: torch.as_tensor(values))
    strategy = SimpleNamespace(root_device=torch.device("cuda:0"), reduce=lambda tensor, reduce_op: tensor)
    logger = SimpleNamespace(log_metrics=lambda scalars, step: logged.append(scalars))
    run, callback = SimpleNamespace(strategy=strategy, loggers=[logger], global_step=0), Memory(every_n_steps=1)
    peak["allocated"] = 9 * 2**30  # before training
    callback.on_train_start(run, None)
    for gib in (3, 1):
        peak["allocated"] = max(peak["allocated"], gib * 2**30)
        run.global_step += 1
        callback.on_train_batch_end(run, None, None, None, 0)
    assert [(record["memory/peak_allocated_gib"], record["memory/peak_reserved_gib"]) for record in logged] == [(3, 6), (1, 2)]
