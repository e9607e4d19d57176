"""``mimdit doctor``: check that a node, or all nodes of a job, meet the needs of a run."""

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
from mimdit.diagnosis.compilers import check_compilers
from mimdit.diagnosis.node import check_devices, check_folder, check_memory, usable_cores
from mimdit.diagnosis.ranks import Place, check_agreement, check_shared_folder, check_sums, find_place, meet
from mimdit.diagnosis.software import check_software, software_versions

FAILURE = 1
"""Exit code if a check failed."""

_SPLITS = ("train", "validation", "test")


def doctor(
    *,
    config: list[str] | None = None,
    data: list[str] | None = None,
    folder: str | None = None,
    timeout: float = 120.0,
) -> None:
    """Check a node before a long run: software, devices, memory, folder and data; under srun or torchrun, all ranks together.

    A single process checks its own node. On several ranks (srun mimdit doctor …, torchrun … -m mimdit doctor …) it also forms a process
    group, checks an all-reduce (NCCL on CUDA, gloo on CPU) and measures its latency and bandwidth, compares versions, code and data, and
    checks that each rank sees the files the others write. It prints one line per check; the exit code is 1 if a check failed.

    Args:
        config: Config files of the run, as for fit. Data and folder are taken from them unless given.
        data: Folders of shards or pairs, as for data.train.
        folder: Folder that the run writes to, on a file system shared by all nodes.
        timeout: Seconds that ranks may take to meet and to all-reduce, above 0.

    Raises:
        ValueError: timeout is not above 0, or Lightning rejects the Slurm variables.
    """
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout}; it must be above 0 seconds")
    place = find_place()
    findings = [*check_software(), *check_devices(), *check_compilers(), *check_memory()]
    device, misplaced = _device(place)
    findings += misplaced
    if place.world_size > 1:
        met = meet(place, timeout)
        if met.level is not Level.OK:  # each rank prints its own findings
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
    """Run the checks that need all ranks; return the merged findings on every rank."""
    settings_found: list[Any] = [_read_config(config) if place.rank == 0 else None]
    dist.broadcast_object_list(settings_found)  # only one rank parses: hundreds would read all packages from a shared file system at once
    settings, found = settings_found[0]
    common = [met, *found, *_check_size(settings, place.world_size)]
    remedy = "install the same package, from the same checkout, on every node"
    common.append(check_agreement("versions", software_versions(), place.name, remedy))
    devices = check_agreement("device type", {"device": device.type}, place.name, "give every node the same devices")
    common.append(check_sums(device, timeout) if devices.level is Level.OK else devices)
    mine, checksums = _check_run(settings, data, folder, number=place.rank)
    remedy = "copy the data again to the nodes that differ, or use a folder shared by all"
    common.append(check_agreement("same data", checksums, place.name, remedy) if any(gather(bool(checksums))) else None)
    where = _folder(settings, folder)
    common.append(check_shared_folder(Path(where), place) if where is not None else None)
    of_all = [finding for finding in common if finding is not None]
    result = merged(gather([*findings, *mine, *of_all]), gather(place.name))
    dist.barrier()
    dist.destroy_process_group()
    return result


def _device(place: Place) -> tuple[torch.device, list[Finding]]:
    """Return the device that Lightning would give this rank, and a finding if there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu"), []
    count = torch.cuda.device_count()
    if place.local_rank < count:
        return torch.device("cuda", place.local_rank), []
    found = f"{place.name} has local rank {place.local_rank}, but sees {count} devices on its node"
    remedy = "under Slurm use --gpus-per-node with an equal --ntasks-per-node; --gpus-per-task hides the devices of other ranks"
    return torch.device("cuda", 0), [Finding.failed("devices", found, remedy)]


def _read_config(files: list[str]) -> tuple[dict[str, Any], list[Finding]]:
    """Parse the config files as ``mimdit fit`` does, with all defaults, without building anything."""
    if not files:
        return {}, []
    options = [word for file in files for word in ("--config", file)]
    command = [sys.executable, "-m", "mimdit", "fit", *options, "--print_config"]
    parsed = subprocess.run(command, capture_output=True, text=True)
    if parsed.returncode:
        lines = [line.strip() for line in parsed.stderr.splitlines() if line.strip()]
        start = max((number for number, line in enumerate(lines) if line.startswith("error:")), default=len(lines) - 3)
        return {}, [Finding.failed("config", " ".join(lines[max(0, start) :]), "correct the config; mimdit fit would fail, too")]
    return yaml.safe_load(parsed.stdout), [Finding.ok("config", f"{', '.join(files)} can be read")]


def _check_size(settings: dict[str, Any], world_size: int) -> list[Finding]:
    """Check that a config's devices and nodes match the number of ranks, unless it leaves them to Lightning."""
    trainer = settings.get("trainer", {})
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes", 1)
    if not isinstance(devices, int) or devices < 0 or devices * nodes == world_size:
        return []
    found = f"trainer.devices {devices} x trainer.num_nodes {nodes} are {devices * nodes} ranks, but {world_size} were started"
    return [Finding.failed("ranks", found, "set trainer.devices and trainer.num_nodes to those of the job")]


def _check_run(settings: dict[str, Any], data: list[str] | None, folder: str | None, number: int) -> tuple[list[Finding], dict[str, str]]:
    """Check the folder, the data and the data workers of a run on this rank; return findings and data checksums."""
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
        remedy = "request more cores per task (--cpus-per-task, and SRUN_CPUS_PER_TASK for srun), or lower data.num_workers"
        findings.append(Finding.warning("cores", f"data.num_workers is {workers}, but there are {cores} cores for this process", remedy))
    return findings, checksums


def _check_data(name: str, places: str | list[str], arguments: dict[str, Any], number: int, checksums: dict[str, str]) -> Finding:
    """Check one data set, and store its checksum in ``checksums``."""
    title = f"{name} ({places})" if name.startswith("data.") else str(places)
    remote = any(map(is_remote, [places] if isinstance(places, str) else places))
    with tempfile.TemporaryDirectory() as elsewhere:  # for remote shards without a cache
        cache = arguments.get("cache") or (elsewhere if remote else None)
        store = ShardStore(cache=cache, attempts=1, allow_pipes=arguments.get("allow_pipes", False))
        try:
            look = look_into(places, store, number)
        except (ValueError, OSError) as error:
            return Finding.failed("data", f"{title}: {error}", "")
    checksums[name] = look.checksum
    return Finding.ok("data", f"{title}: {look}")


def _folder(settings: dict[str, Any], folder: str | None) -> str | None:
    """Return the folder that the run writes to, or None if unknown."""
    return folder if folder is not None else settings.get("trainer", {}).get("default_root_dir")


def _end(findings: list[Finding], *, speaks: bool = True) -> None:
    """Print the findings and exit."""
    worst = max(finding.level for finding in findings)
    if speaks:
        counts = {level: sum(finding.level is level for finding in findings) for level in Level}
        summary = f"{counts[Level.OK]} ok, {counts[Level.WARNING]} warnings, {counts[Level.FAILED]} failed"
        print(f"{render(findings)}\n{summary}", flush=True)
    sys.exit(FAILURE if worst is Level.FAILED else 0)
