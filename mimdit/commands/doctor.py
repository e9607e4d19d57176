"""``mimdit doctor``: whether a node, or all nodes of a job, can do what a run will ask of them."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml

from datamodules.inspection import look_into
from datamodules.shards import ShardStore, is_remote
from mimdit.core.collectives import gather
from mimdit.diagnosis import Finding, Level, merged, render
from mimdit.diagnosis.node import check_devices, check_folder, check_memory, usable_cores
from mimdit.diagnosis.ranks import Place, check_agreement, check_shared_folder, check_sums, find_place, meet
from mimdit.diagnosis.software import check_software, software_versions

FAILURE = 1
"""Exit code where a check failed."""

_SPLITS = ("train", "validation", "test")


def doctor(
    *,
    config: list[str] | None = None,
    data: list[str] | None = None,
    folder: str | None = None,
    timeout: float = 120.0,
) -> None:
    """Check a node before a long run: software, devices, memory, folder, data; and, under srun or torchrun, all ranks together.

    Alone it checks the node it runs on. Started on several ranks (srun mimdit doctor …, torchrun … -m mimdit doctor …) it also lets them
    meet, adds over all of them (NCCL on CUDA, gloo on CPUs) and tells latency and bandwidth, compares versions, code and data, and looks
    whether each sees what the others write. One line is printed for each check; the exit code is 1 where one failed.

    Args:
        config: Config files of the run, as for fit. Data and folder are taken from them unless they are given.
        data: Folders of shards or pairs, as data.train takes them.
        folder: Folder that the run writes to, on a file system that all nodes share.
        timeout: Seconds that ranks may take to meet, and to add.
    """
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout}; give seconds above 0.")
    place = find_place()
    findings = [*check_software(), *check_devices(), *check_memory()]
    device, misplaced = _device(place)
    findings += misplaced
    if place.world_size > 1:
        met = meet(place, timeout)
        if met.level is not Level.OK:  # every rank speaks for itself
            _end([*findings, met])
        _end(_together(place, findings, met, device, config or [], data, folder, timeout), speaks=place.rank == 0)
    settings, found = _read_config(config or [])
    findings += found
    findings += _check_run(settings, data, folder, number=0)[0]
    _end(findings)


def _together(
    place: Place,
    findings: list[Finding],
    met: Finding,
    device: torch.device,
    config: list[str],
    data: list[str] | None,
    folder: str | None,
    timeout: float,
) -> list[Finding]:
    """The checks that need all ranks; what all of them found, on every rank."""
    settings_found = [_read_config(config) if place.rank == 0 else None]
    dist.broadcast_object_list(settings_found)  # one rank parses: on a shared file system hundreds would read all packages at once
    settings, found = settings_found[0]
    common = [met, *found, *_check_size(settings, place.world_size)]
    remedy = "install the same package, from the same checkout, on every node"
    common.append(check_agreement("versions", software_versions(), place.name, remedy))
    devices = check_agreement("device type", {"device": device.type}, place.name, "give every node the same devices")
    common.append(check_sums(device, timeout) if devices.level is Level.OK else devices)
    mine, checksums = _check_run(settings, data, folder, number=place.rank)
    remedy = "copy the data anew to the nodes that differ, or name a folder that all share"
    common.append(check_agreement("same data", checksums, place.name, remedy) if any(gather(bool(checksums))) else None)
    where = _folder(settings, folder)
    common.append(check_shared_folder(Path(where), place) if where is not None else None)
    of_all = [finding for finding in common if finding is not None]
    result = merged(gather([*findings, *mine, *of_all]), gather(place.name))
    dist.barrier()
    dist.destroy_process_group()
    return result


def _device(place: Place) -> tuple[torch.device, list[Finding]]:
    """The device that Lightning would give this rank."""
    if not torch.cuda.is_available():
        return torch.device("cpu"), []
    count = torch.cuda.device_count()
    if place.local_rank < count:
        return torch.device("cuda", place.local_rank), []
    found = f"{place.name} is number {place.local_rank} on its node, which shows it {count} devices"
    remedy = "under SLURM ask by --gpus-per-node with as many --ntasks-per-node; --gpus-per-task hides the others' devices"
    return torch.device("cuda", 0), [Finding.failed("devices", found, remedy)]


def _read_config(files: list[str]) -> tuple[dict[str, Any], list[Finding]]:
    """What ``mimdit fit`` would make of the config files, with all defaults, without building anything."""
    if not files:
        return {}, []
    options = [word for file in files for word in ("--config", file)]
    command = [sys.executable, "-m", "mimdit", "fit", *options, "--print_config"]
    told = subprocess.run(command, capture_output=True, text=True)
    if told.returncode:
        lines = [line.strip() for line in told.stderr.splitlines() if line.strip()]
        start = max((number for number, line in enumerate(lines) if line.startswith("error:")), default=len(lines) - 3)
        return {}, [Finding.failed("config", " ".join(lines[max(0, start) :]), "mend the config: mimdit fit would end with this too")]
    return yaml.safe_load(told.stdout), [Finding.ok("config", f"{', '.join(files)} can be read")]


def _check_size(settings: dict[str, Any], world_size: int) -> list[Finding]:
    """Whether a config's devices and nodes are as many as there are ranks; it may leave them to Lightning."""
    trainer = settings.get("trainer", {})
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes", 1)
    if not isinstance(devices, int) or devices < 0 or devices * nodes == world_size:
        return []
    found = f"trainer.devices {devices} x trainer.num_nodes {nodes} are {devices * nodes} ranks, but {world_size} were started"
    return [Finding.failed("ranks", found, "make trainer.devices and trainer.num_nodes those of the job")]


def _check_run(settings: dict[str, Any], data: list[str] | None, folder: str | None, number: int) -> tuple[list[Finding], dict[str, str]]:
    """The run's folder, its data and its workers on this rank; and checksums of the data."""
    findings, checksums = [], {}
    where = _folder(settings, folder)
    if where is not None:
        findings += check_folder(Path(where))
    arguments = settings.get("data", {}).get("init_args", {})
    named = {places: places for places in data} if data else {f"data.{split}": arguments.get(split) for split in _SPLITS}
    for name, places in named.items():
        if places is not None:
            findings.append(_check_data(name, places, arguments, number, checksums))
    workers, cores = arguments.get("num_workers", 0), usable_cores()
    if workers > cores:
        remedy = "ask for more cores a task (--cpus-per-task, and SRUN_CPUS_PER_TASK for srun), or set data.num_workers lower"
        findings.append(Finding.warning("cores", f"data.num_workers is {workers}, but there are {cores} cores for this process", remedy))
    return findings, checksums


def _check_data(name: str, places: str | list[str], arguments: dict[str, Any], number: int, checksums: dict[str, str]) -> Finding:
    """Look into one of the data sets, and note its checksum."""
    told = f"{name} ({places})" if name.startswith("data.") else str(places)
    remote = any(map(is_remote, [places] if isinstance(places, str) else places))
    with tempfile.TemporaryDirectory() as elsewhere:  # for remote shards where no cache is set
        cache = arguments.get("cache") or (elsewhere if remote else None)
        store = ShardStore(cache=cache, attempts=1, allow_pipes=arguments.get("allow_pipes", False))
        try:
            look = look_into(places, store, number)
        except (ValueError, OSError) as error:
            return Finding.failed("data", f"{told}: {error}", "")
    checksums[name] = look.checksum
    return Finding.ok("data", f"{told}: {look}")


def _folder(settings: dict[str, Any], folder: str | None) -> str | None:
    """The folder that the run writes to, if anything says."""
    return folder if folder is not None else settings.get("trainer", {}).get("default_root_dir")


def _end(findings: list[Finding], *, speaks: bool = True) -> None:
    """Print and leave."""
    worst = max(finding.level for finding in findings)
    if speaks:
        counts = {level: sum(finding.level is level for finding in findings) for level in Level}
        summary = f"{counts[Level.OK]} ok, {counts[Level.WARNING]} warnings, {counts[Level.FAILED]} failed"
        print(f"{render(findings)}\n{summary}", flush=True)
    sys.exit(FAILURE if worst is Level.FAILED else 0)
