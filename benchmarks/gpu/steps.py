"""The steps, each a few processes whose figures are collected into one JSON file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.figures import write_figures
from benchmarks.gpu.training import join, split

ROOT = Path(__file__).parents[2]
TAIL = 4000
"""Characters of a failed process's output that the JSON keeps."""


@dataclass(frozen=True)
class Options:
    """Options of the command line."""

    out: Path
    tiny: bool = False
    limit: float = 540
    seconds: float = 420
    config: str = "configs/default.yaml"
    data: str | None = None
    resume: Path | None = None
    fit: tuple[str, ...] = ()


class StepFailed(Exception):
    """A process of a step failed; ``figures`` are those that it still wrote."""

    def __init__(self, message: str, figures: dict | None = None) -> None:
        super().__init__(message)
        self.figures = figures or {}


class Processes:
    """Runner of a step's processes, until its time is up."""

    def __init__(self, options: Options) -> None:
        self.options, self.end = options, time.monotonic() + options.limit

    def run(self, *command: str, **environment: str) -> None:
        """Run ``python`` with arguments in the repository, showing its output.

        Raises:
            StepFailed: It failed, or the step's time is up.
        """
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"} | environment
        print(f"$ python {' '.join(command)}", flush=True)
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
            try:
                code: int | str = process.wait(max(1.0, self.end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = f"the limit of {self.options.limit:g} seconds"
            output.seek(0)
            text = output.read().decode(errors="replace")
        print(text[-TAIL:], flush=True)
        if code != 0:
            raise StepFailed(f"{' '.join(command)} ended with {code}: {text[-TAIL:]}")

    def script(self, name: str, *arguments: str) -> dict:
        """Run a script of ``benchmarks/`` with ``--json``; return its figures.

        Raises:
            StepFailed: It failed.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "figures.json"
            try:
                self.run(f"benchmarks/{name}", *arguments, "--json", str(path))
            except StepFailed as failure:
                raise StepFailed(str(failure), json.loads(path.read_text()) if path.exists() else None) from failure
            return json.loads(path.read_text())

    def each(self, runs: dict[str, tuple[str, ...]]) -> dict:
        """Run several scripts; return the figures by name.

        Raises:
            StepFailed: One failed; the others have run.
        """
        figures, failures = {}, []
        for name, command in runs.items():
            try:
                figures[name] = self.script(*command)
            except StepFailed as failure:
                failures.append(f"{name}: {failure}")
                figures[name] = failure.figures
        if failures:
            raise StepFailed("\n".join(failures), figures)
        return figures


def tests(processes: Processes) -> dict:
    """Run the tests marked ``cuda``."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        place = {"MIMDIT_TEST_DEVICE": "cpu"} if processes.options.tiny else {}
        chosen = ["tests/cuda/test_routing.py", "tests/cuda/test_flow.py"] if processes.options.tiny else ["tests/cuda"]
        failure = None
        try:
            processes.run(
                "-m", "pytest", "-m", "cuda", "-q", "-p", "no:cacheprovider", "--durations=10", f"--junitxml={report}", *chosen, **place
            )
        except StepFailed as error:
            failure = error
        figures = _counts(report) if report.exists() else {}
    if failure is not None:
        raise StepFailed(str(failure), figures)
    if figures["passed"] == 0:
        raise StepFailed("no test ran: is there a CUDA device?", figures)
    return figures


def _counts(report: Path) -> dict:
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    kinds = {"failure": [], "error": [], "skipped": []}
    for case in cases:
        for kind, found in kinds.items():
            for outcome in case.iter(kind):
                found.append({"test": f"{case.get('classname')}.{case.get('name')}", "message": (outcome.get("message") or "")[:500]})
    seconds = sorted(((float(case.get("time") or 0), case.get("name")) for case in cases), reverse=True)[:10]
    passed = len(cases) - sum(len(found) for found in kinds.values())
    return {"passed": passed} | kinds | {"slowest": [{"test": name, "seconds": spent} for spent, name in seconds]}


def dispatch(processes: Processes) -> dict:
    """Compare grouped and gathered sub-experts with loops over experts."""
    tiny = ("--width", "16", "--experts", "2", "4", "--tokens", "64", "--batch", "2", "--rounds", "1", "--kinds", "se", "--device", "cpu")
    return processes.script("dispatch.py", *(tiny if processes.options.tiny else ()))


def sd35(processes: Processes) -> dict:
    """Time the training step of configs/foundir_sd35_medium.yaml at full size, eager and compiled."""
    size = ("--tiny",) if processes.options.tiny else ("--batch-size", "16", "--rounds", "3")
    common = (*size, "--config", "configs/conditioner/sd35_medium_paper.yaml")
    runs = {"eager": ("sd35_step.py", *common)}
    if not processes.options.tiny:  # a CPU compiles for minutes
        runs["compiled"] = ("sd35_step.py", *common, "--compile")
    return processes.each(runs)


def ranks(processes: Processes) -> dict:
    """Time DDP and FSDP2 on one rank."""
    return processes.script("rank_overhead.py", *(("--tiny",) if processes.options.tiny else ()))


def restore(processes: Processes) -> dict:
    """Time restorations with the embedded weights."""
    tiny = ("--megapixels", "0.01", "--steps", "0", "2", "--rounds", "1")
    return processes.script("restore_speed.py", *(tiny if processes.options.tiny else ()))


def conditioning(processes: Processes) -> dict:
    """Compare the conditioner with ControlNet and token concatenation."""
    small = ("--flops-size", "tiny", "--time-size", "tiny", "--rounds", "1")
    full = ("--flops-size", "tiny", "--time-size", "full", "--precision", "bf16", "--rounds", "3")
    return processes.script("conditioning.py", *(small if processes.options.tiny else full))


def train(processes: Processes) -> dict:
    """Train the embedded default for some time; keep the checkpoint in parts of less than 16 MiB."""
    options = processes.options
    run = options.out / "run"
    data = Path(options.data) if options.data else options.out / "data"
    if not options.data:
        few = ["--train-images=8", "--size=96"] if options.tiny else ["--train-images=4000", "--size=160", f"--workers={os.cpu_count()}"]
        processes.run("-m", "mimdit", "shards", "quickstart", str(data), *few)
    further: list[str] = []
    if options.tiny:
        further += [
            "--trainer.max_steps=2",
            "--data.batch_size=1",
            "--data.crop=64",
            "--trainer.limit_val_batches=1",
            "--data.num_workers=0",
            "--data.weights=null",
        ]
        further.append("--model.init_args.scheduler.init_args.total_steps=2000")
    if options.resume is not None:
        with tempfile.TemporaryDirectory() as folder:
            earlier = join(options.resume, Path(folder) / "last.ckpt")
            # Lightning's timer goes on where the earlier training's stopped.
            timer = torch.load(earlier, map_location="cpu", weights_only=False, mmap=True)["callbacks"].get("Timer", {})  # our own
            elapsed = timer.get("time_elapsed", {}).get("train", 0.0)
            return _fit(processes, data, run, [_max_time(elapsed + options.seconds), *further, "--ckpt_path", str(earlier)])
    return _fit(processes, data, run, [_max_time(options.seconds), *further])


def _max_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"--trainer.max_time={minutes // 1440:02d}:{minutes // 60 % 24:02d}:{minutes % 60:02d}:{rest:02d}"


def _fit(processes: Processes, data: Path, run: Path, further: list[str]) -> dict:
    """Run ``mimdit fit``; return steps, seconds a step and the parts of the checkpoint, which are kept even if training failed."""
    places = [f"--data.train={data}/train", f"--data.validation={data}/validation", f"--data.test={data}/validation"]
    start, failure = time.perf_counter(), None
    try:
        processes.run(
            "-m",
            "mimdit",
            "fit",
            "--config",
            processes.options.config,
            f"--trainer.default_root_dir={run}",
            *places,
            *further,
            *processes.options.fit,
        )
    except StepFailed as error:
        failure = error
    figures: dict = {"seconds": time.perf_counter() - start}
    last = run / "checkpoints" / "last.ckpt"
    if last.exists():
        checkpoint = torch.load(last, map_location="cpu", weights_only=False, mmap=True)  # our own, just written
        figures |= {"global_step": checkpoint["global_step"], "parts": split(last, processes.options.out)}
    if failure is not None:
        raise StepFailed(str(failure), figures)
    return figures


STEPS: dict[str, Callable[[Processes], dict]] = {
    "tests": tests,
    "dispatch": dispatch,
    "sd35": sd35,
    "ranks": ranks,
    "restore": restore,
    "conditioning": conditioning,
    "train": train,
}


def run_step(name: str, options: Options) -> bool:
    """Run a step and write its JSON; return true if it succeeded."""
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found = {"step": name, "device": device, "torch": torch.__version__, "cuda": torch.version.cuda, "tiny": options.tiny, "error": None}
    start = time.perf_counter()
    try:
        found["figures"] = STEPS[name](Processes(options))
    except StepFailed as failure:
        found |= {"error": str(failure), "figures": failure.figures}
    found["seconds"] = time.perf_counter() - start
    write_figures(options.out / f"{name}.json", found)
    print(f"{name}: {'ok' if found['error'] is None else 'FAILED'} after {found['seconds']:.0f} s", flush=True)
    return found["error"] is None
