"""The job scripts under a real Slurm: whatever stops a run of two nodes, it saves, goes on where it was, and never hangs."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
import yaml

from tests.datamodules.made_shards import made_image
from tests.slurm.cluster import Cluster, what_is_missing
from tests.slurm.experiment import logged, write_experiment

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.environ.get("MIMDIT_TEST_SLURM") != "1", reason="MIMDIT_TEST_SLURM=1 starts a Slurm of its own for these"),
]

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("MIMDIT_SLURM_ROUNDS", 3))
"""Interruptions of one run by a signal."""

SMALL = ("--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1")
PATIENCE = 400
"""Seconds for a start, on a machine that does other things too."""
HANGS = 60
"""Seconds after a stop signal from which ranks count as hung."""


@pytest.fixture(scope="module")
def cluster():
    """One for all tests of this file; its absence is a failure, for MIMDIT_TEST_SLURM=1 asked for it."""
    missing = what_is_missing()
    assert not missing, f"MIMDIT_TEST_SLURM=1, but {missing} are missing: apt-get install slurm-wlm munge"
    with Cluster() as running:
        yield running


class Job:
    """A submitted job, its folder and how far it is."""

    def __init__(self, cluster: Cluster, folder: Path, script: str, *options: object, sbatch: tuple[str, ...] = (), **site: object) -> None:
        self.cluster, self.folder, self.output = cluster, folder, folder / "job.out"
        # virtual nodes have no addresses of their own
        facts = {"MIMDIT_PYTHON": sys.executable, "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": ROOT} | site
        (folder / "site.env").write_text("".join(f"export {name}='{value}'\n" for name, value in facts.items()))
        command = ["slurm/submit", "--parsable", f"--output={self.output}", *sbatch, f"slurm/{script}.sbatch", *map(str, options)]
        environment = cluster.environment | {"MIMDIT_SITE": str(folder / "site.env")}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.number = done.stdout.strip()

    def wait(self, what: str, condition, seconds: float = PATIENCE) -> None:
        try:
            self.cluster.wait(what, condition, seconds)
        except TimeoutError as error:
            raise AssertionError(f"{error}; log of the job:\n{self.log()}") from error

    def log(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def progress(self, name: str = "step") -> tuple[int, int]:
        """The start, counted from 0, and the step that it has reached."""
        file = self.folder / name
        return tuple(map(int, file.read_text().split())) if file.exists() else (-1, -1)

    def wait_for_step(self, start: int, step: int, name: str = "step") -> None:
        self.wait(f"start {start} to reach step {step}", lambda: self.progress(name) >= (start, step))
        assert self.progress(name)[0] == start, self.log()

    def wait_for_requeue(self, count: int) -> None:
        """Until Slurm has it in the queue again, with every process of the old start gone."""
        self.wait(f"requeue {count}", lambda: self.cluster.shown(self.number, "Restarts") == str(count), HANGS)
        self.wait("the old start to be over", lambda: self.cluster.state(self.number) in ("PENDING", "RUNNING"), HANGS)

    def wait_for_end(self, seconds: float = PATIENCE) -> str:
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.wait("the end", lambda: self.cluster.state(self.number) in over, seconds)
        return self.cluster.state(self.number)

    def saved(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "checkpoints").iterdir() if not path.is_symlink())


def training(cluster: Cluster, folder: Path, *options: object, site: dict | None = None, sbatch: tuple = (), **experiment) -> Job:
    config = write_experiment(folder, **experiment)
    return Job(cluster, folder, "train", "--config", config, *options, sbatch=(*SMALL, *sbatch), **site or {})


@pytest.fixture(scope="module")
def uninterrupted(cluster, tmp_path_factory) -> dict[int, float]:
    """Losses of the run that nobody stops."""
    job = training(cluster, tmp_path_factory.mktemp("whole"), steps=4 * ROUNDS + 4, seconds=0, validate=5)
    assert job.wait_for_end() == "COMPLETED", job.log()
    return {"loss": logged(job.folder), "psnr": logged(job.folder, "val/psnr_output")}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_signal_saves_requeues_and_resumes(cluster, tmp_path, uninterrupted, strategy):
    steps = 4 * ROUNDS + 4
    job = training(cluster, tmp_path, f"--trainer.strategy={strategy}", steps=steps, seconds=0.3, validate=5)
    at = 0
    for start in range(ROUNDS):
        job.wait_for_step(start, at + 2)
        time.sleep(random.uniform(0, 1))
        sent = time.monotonic()
        cluster("scancel", "--signal=USR1", job.number)
        job.wait_for_requeue(start + 1)
        at = job.progress()[1]
        print(f"{strategy}: stopped after step {at}, in the queue again after {time.monotonic() - sent:.1f} s")
        assert f"step={at:07d}.ckpt" in job.saved() and "exited with code 85" in job.log()
        at = min(at, steps - 3)
    assert job.wait_for_end() == "COMPLETED", job.log()
    assert cluster.shown(job.number, "Restarts") == str(ROUNDS)
    losses, psnr = logged(tmp_path), logged(tmp_path, "val/psnr_output")
    assert sorted(losses) == list(range(steps)) and sorted(psnr) == sorted(uninterrupted["psnr"])
    for mine, whole in ((losses, uninterrupted["loss"]), (psnr, uninterrupted["psnr"])):
        torch.testing.assert_close(mine, whole, rtol=1e-6 if strategy == "ddp" else 1e-3, atol=0)


def test_requeued_by_the_administrator_then_a_node_lost_then_a_step_cancelled(cluster, tmp_path):
    job = training(cluster, tmp_path, steps=1000, seconds=0.3, every=2)
    job.wait_for_step(0, 3)
    cluster("scontrol", "requeue", job.number)
    job.wait_for_requeue(1)
    at = job.progress()[1]
    assert "exited with code 143" in job.log() and f"step={at:07d}.ckpt" in job.saved()  # saved though it was not due

    job.wait_for_step(1, at + 3)
    assert f"from the checkpoint at {tmp_path}/checkpoints/step={at:07d}.ckpt" in job.log()
    cluster.lose_node("n2")
    job.wait_for_requeue(2)
    cluster.start_node("n2")
    cluster.wait("n2 to be back", lambda: "down" not in cluster("sinfo", "-h", "-n", "n2", "-o", "%T"), HANGS)  # as ReturnToService=2 says
    newest = max(job.saved())

    job.wait_for_step(2, 1)
    assert f"from the checkpoint at {tmp_path}/checkpoints/{newest}" in job.log()
    cluster("scancel", f"{job.number}.0")
    assert job.wait_for_end(HANGS) == "FAILED" and cluster.shown(job.number, "Restarts") == "2", job.log()


def test_signals_before_python_and_while_it_imports_requeue_under_the_cap(cluster, tmp_path):
    slow = tmp_path / "python"
    slow.write_text(
        f'#!/bin/bash\n[ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] && {{ touch {tmp_path}/early; sleep 100; }}\nexec {sys.executable} "$@"\n'
    )
    slow.chmod(0o755)
    job = training(cluster, tmp_path, steps=1000, site={"MIMDIT_PYTHON": slow, "MIMDIT_MAX_RESTARTS": 1})
    job.wait("a task", (tmp_path / "early").exists)
    cluster("scancel", "--signal=USR1", job.number)
    job.wait_for_requeue(1)
    assert "exited with code 138" in job.log()

    job.wait("both to hold the signals", lambda: holding(tmp_path) == 2)
    assert "GLOBAL_RANK" not in job.log()  # it still imports
    cluster("scancel", "--signal=USR1", job.number)
    assert job.wait_for_end() == "FAILED" and job.progress() == (-1, -1)
    assert "exited with code 85" in job.log() and "MIMDIT_MAX_RESTARTS=1 is reached" in job.log()
    assert cluster.shown(job.number, "Restarts") == "1"


def holding(folder: Path) -> int:
    """Processes of the experiment in ``folder`` that have SIGUSR1 blocked: those of Python's, after its first lines."""
    found = 0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command, status = (place / "cmdline").read_text(), (place / "status").read_text()
        except OSError:
            continue
        blocked = int(re.search(r"SigBlk:\s*(\w+)", status)[1], 16)
        found += "-m\0mimdit\0fit" in command and str(folder) in command and "srun" not in command and bool(blocked & 1 << 9)
    return found


def test_the_time_limit(cluster, tmp_path):
    job = training(cluster, tmp_path, steps=1000, seconds=0.5, sbatch=("--time=2", "--signal=USR1@60"))
    job.wait("the signal", lambda: "exited with code" in job.log(), 180)
    job.wait_for_requeue(1)
    assert "exited with code 85" in job.log()
    at = max(0, job.progress()[1])
    job.wait_for_step(1, at + 1)
    cluster("scancel", job.number)
    assert job.wait_for_end(HANGS) == "CANCELLED" and "exited with code 143" in job.log()


def test_a_sweep_is_an_array_of_runs_that_requeue_by_themselves(cluster, tmp_path):
    config = write_experiment(tmp_path, steps=14, seconds=0.3)
    content = yaml.safe_load(config.read_text())
    content["trainer"]["callbacks"][2]["init_args"]["dirpath"] = "${trainer.default_root_dir}/checkpoints"
    content["trainer"]["callbacks"][3]["init_args"]["folder"] = "${trainer.default_root_dir}"
    content["trainer"]["logger"]["init_args"]["save_dir"] = "${trainer.default_root_dir}"
    config.write_text(yaml.safe_dump(content))
    for name, rate in (("one", 1e-3), ("two", 2e-3)):
        optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": rate}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"optimizer": optimizer}}}))
    options = {"sbatch": (*SMALL, "--array=0-1"), "SWEEP": f"{tmp_path}/one.yaml {tmp_path}/two.yaml", "RUNS": tmp_path / "runs"}
    job = Job(cluster, tmp_path, "sweep", "--config", config, **options)
    last = f"{job.number}_1"  # the one whose SLURM_JOB_ID is the array's
    job.folder = tmp_path / "runs" / "two"
    job.wait_for_step(0, 2)
    cluster("scancel", "--signal=USR1", last)
    whole, job.number = job.number, last
    job.wait_for_requeue(1)
    job.wait("both to end", lambda: not cluster("squeue", "-h", "-j", whole))
    for name in ("one", "two"):
        assert sorted(logged(tmp_path / "runs" / name)) == list(range(14)), job.log()
    assert cluster.shown(f"{whole}_0", "Restarts") == "0" and cluster.shown(last, "Restarts") == "1"


def test_shards_in_an_array_and_an_evaluation(cluster, tmp_path):
    for side in ("lq", "gt"):
        (tmp_path / side).mkdir()
        for number in range(6):
            cv2.imwrite(str(tmp_path / side / f"{number}.png"), made_image(f"{side}{number}", 32, 32))
    sources = (tmp_path / "shards", "--lq", tmp_path / "lq", "--gt", tmp_path / "gt", "--group", "01Blur")
    small = ("--cpus-per-task=1",)
    job = Job(cluster, tmp_path, "shards", "shards", "pairs", *sources, sbatch=(*small, "--array=1-2"))
    job.wait("both parts", lambda: not cluster("squeue", "-h", "-j", job.number))
    done = subprocess.run(
        [sys.executable, "-m", "mimdit", "shards", "finalize", tmp_path / "shards"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and (tmp_path / "shards" / "index.json").exists(), done.stderr + job.log()

    (tmp_path / "run").mkdir()
    config = write_experiment(tmp_path / "run", steps=1)
    options = ("--config", config, "--data.init_args.test", tmp_path / "shards")
    job = Job(cluster, tmp_path, "evaluate", *options, sbatch=SMALL)
    assert job.wait_for_end() == "COMPLETED" and "test/psnr_output" in job.log(), job.log()


def test_restoring_in_an_array_puts_each_image_into_one_part_with_a_tally(cluster, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(12):
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), made_image(str(number), 32, 32))
    arguments = (tmp_path / "in", tmp_path / "out", "--steps=0")
    job = Job(cluster, tmp_path, "restore", *arguments, sbatch=(*SMALL, "--array=5-7"))  # whose first number is not 1
    job.wait("all parts", lambda: not cluster("squeue", "-h", "-j", job.number))
    tallies = re.findall(r"^part (\d)/3: restored (\d+), already there 0, failed 0", job.log(), re.MULTILINE)
    assert sorted(number for number, _ in tallies) == ["1", "2", "3"] and sum(int(count) for _, count in tallies) == 12, job.log()
    assert len(list((tmp_path / "out").iterdir())) == 12
