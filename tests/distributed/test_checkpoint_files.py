"""Checkpoints from strangers: nothing in them is run."""

import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from mimdit import cli
from mimdit.distributed import WholeCheckpointIO
from mimdit.distributed.checkpoint_files import read_checkpoint
from tests.tiny_models import tiny_restorer


class Touch:
    """Makes a file wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.fixture(params=["archive", "bare pickle", "folder's meta.pt", "folder's .metadata"])
def malicious(request, tmp_path) -> tuple[Path, Path]:
    """A checkpoint, and what is there once it was run."""
    trace, path = tmp_path / "was_run", tmp_path / "stranger.ckpt"
    held = {"state_dict": {}, "hyper_parameters": {"_class_path": "mimdit.Restorer"}, "global_step": 1, "more": Touch(trace)}
    if request.param == "archive":
        torch.save(held, path)
    elif request.param == "bare pickle":
        path.write_bytes(pickle.dumps(held))
    else:
        path.mkdir()
        in_meta = request.param == "folder's meta.pt"
        torch.save(held if in_meta else {"state_dict": {}}, path / "meta.pt")
        (path / ".metadata").write_bytes(pickle.dumps(held))
        files = {"meta.pt": (path / "meta.pt").stat().st_size}
        (path / "index.json").write_text(json.dumps({"format": 1, "ranks": 1, "global_step": 1, "files": files, "tensors": {}}))
    return path, trace


def test_the_made_checkpoints_would_run(malicious):
    path, trace = malicious
    if path.is_dir():
        pickle.loads((path / ".metadata").read_bytes())
    elif zipfile.is_zipfile(path):
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert trace.is_dir()


def test_no_command_runs_what_a_stranger_put_there(malicious, monkeypatch, capsys):
    path, trace = malicious
    monkeypatch.setattr(sys, "argv", ["mimdit"])
    for command in (["checkpoint", "inspect"], ["checkpoint", "consolidate"], ["export"], ["validate", "--ckpt_path"]):
        target = [str(path.with_name("target"))] if command[-1] in ("consolidate", "export") else []
        try:
            cli.main([*command, str(path), *target])
        except SystemExit as end:
            assert end.code == 2
        assert not trace.exists()
    if not path.is_dir() or "more" in (path / "meta.pt").read_bytes().decode("latin1"):
        assert "error: " in capsys.readouterr().err


def test_training_and_scoring_do_not_either(malicious):
    path, trace = malicious
    if path.is_dir() and "more" not in (path / "meta.pt").read_bytes().decode("latin1"):
        assert read_checkpoint(path) == {"state_dict": {}}
    else:
        with pytest.raises(ValueError, match="refused|not a checkpoint"):
            WholeCheckpointIO().load_checkpoint(path)
    assert not trace.exists()


def test_an_address_is_not_fetched():
    with pytest.raises(ValueError, match="download it first"):
        WholeCheckpointIO().load_checkpoint("https://example.org/model.ckpt")


def test_export_calls_nothing_that_a_checkpoint_names(tmp_path, capsys):
    hparams = {"_class_path": "mimdit.Restorer", "_instantiator": "os.system"}
    torch.save({"state_dict": tiny_restorer().state_dict(), "hyper_parameters": hparams}, tmp_path / "a.ckpt")
    with pytest.raises(SystemExit):
        cli.main(["export", str(tmp_path / "a.ckpt"), str(tmp_path / "out")])
    assert "os.system" in capsys.readouterr().err


def test_what_is_written_is_whole_or_absent(tmp_path, monkeypatch):
    io, path = WholeCheckpointIO(), tmp_path / "run" / "a.ckpt"
    io.save_checkpoint({"global_step": 1}, path)

    def full(checkpoint: dict, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        io.save_checkpoint({"global_step": 2}, path)
    assert io.load_checkpoint(path) == {"global_step": 1} and os.listdir(path.parent) == ["a.ckpt"]
