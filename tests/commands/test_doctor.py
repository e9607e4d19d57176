"""``mimdit doctor`` as a user and as a cluster calls it."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mimdit import cli
from tests.datamodules.made_shards import make_folder

REPOSITORY = Path(__file__).parents[2]


def doctor(capsys, *options: object) -> tuple[int, str]:
    """Exit code and what was printed."""
    with pytest.raises(SystemExit) as left:
        cli.main(["doctor", *map(str, options)])
    return left.value.code or 0, capsys.readouterr().out


def levels(text: str) -> dict[str, set[str]]:
    """What levels the lines of each check have."""
    found: dict[str, set[str]] = {}
    for level, check in re.findall(r"^(ok|warning|FAILED) +(\S+(?: \S+)*)  ", text, re.MULTILINE):
        found.setdefault(check, set()).add(level)
    return found


def test_a_healthy_node(tmp_path, capsys):
    make_folder(tmp_path / "data")
    code, text = doctor(capsys, "--data", tmp_path / "data", "--folder", tmp_path / "runs")
    assert code == 0 and "FAILED" not in text
    assert "25 pairs of 3 groups (5 shards), one of each decoded" in text
    assert {"software", "packages", "devices", "memory", "cores", "folder", "data"} <= levels(text).keys()


def test_every_data_set_is_looked_at_and_a_shard_that_was_cut_fails(tmp_path, capsys):
    make_folder(tmp_path / "good")
    index = make_folder(tmp_path / "cut")
    tar = index.path(index.shards[0])
    tar.write_bytes(tar.read_bytes()[:-512])
    code, text = doctor(capsys, "--data", tmp_path / "good", "--data", tmp_path / "cut", "--data", tmp_path / "none")
    assert code == 1 and levels(text)["data"] == {"ok", "FAILED"}
    assert f"The shard {tar} has" in text and "none does not exist" in text and text.endswith("2 failed\n")


def test_a_sample_that_cannot_be_decoded_fails(tmp_path, capsys):
    make_folder(tmp_path / "data", edit=lambda sample: sample | {"lq.png": b"no image"})
    code, text = doctor(capsys, "--data", tmp_path / "data")
    assert code == 1 and "cannot be decoded" in text


def environment(**more: object) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in more.items()}


def started_by_srun(rank: int, tasks: int, port: int, *options: object, **more: object) -> subprocess.Popen:
    """A rank as SLURM would start it."""
    slurm = {"SLURM_NTASKS": tasks, "SLURM_NTASKS_PER_NODE": tasks, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}
    place = {"SLURM_NODEID": 0, "SLURM_JOB_ID": 7, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "mimdit", "doctor", *map(str, options)]
    return subprocess.Popen(command, env=environment(**slurm, **place, **more), text=True, stdout=subprocess.PIPE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.long
def test_ranks_meet_compare_and_fail_together(tmp_path):
    make_folder(tmp_path / "data")
    (tmp_path / "run.yaml").write_text(f"trainer: {{devices: 4, default_root_dir: {tmp_path / 'runs'}}}\n")
    options = ["--config", tmp_path / "run.yaml", "--config", REPOSITORY / "configs/backbone_of_nobody.yaml", "--data", tmp_path / "data"]
    port = free_port()
    runs = [started_by_srun(rank, 2, port, *options, "--folder", tmp_path) for rank in range(2)]
    (first, _), (second, _) = (run.communicate(timeout=240) for run in runs)
    assert [run.returncode for run in runs] == [1, 1] and second == ""
    found = levels(first)
    for check in ("ranks", "versions", "all-reduce", "shared folder", "same data"):
        assert found[check] == {"ok"}, first
    assert found["config"] == {"FAILED"} and "backbone_of_nobody.yaml" in first


def test_a_job_that_lightning_would_refuse_is_told(monkeypatch, capsys):
    for name, value in {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["doctor"])
    assert "--ntasks-per-node=2" in capsys.readouterr().err


@pytest.mark.long
def test_a_rank_that_nobody_joins_says_so(tmp_path):
    run = started_by_srun(0, 2, free_port(), "--timeout", 3)
    text, _ = run.communicate(timeout=240)
    assert run.returncode == 1
    assert levels(text)["ranks"] == {"FAILED"} and "not all of 2 ranks met at 127.0.0.1" in text and "srun or torchrun" in text
