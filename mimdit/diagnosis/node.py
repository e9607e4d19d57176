"""Hardware: devices and their driver, NCCL, memory, cores."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path

import psutil
import torch

from mimdit.core.files import replace_when_whole
from mimdit.diagnosis.finding import Finding
from mimdit.diagnosis.software import nccl_version

_GIB = 2**30
_NEEDED_GIB, _COMFORTABLE_GIB = 1, 10
_LEAST_MEMORY_GIB = 4
_LEAST_SHARED_GIB = 1
_LEAST_FREE_SHARE = 0.9


def check_devices() -> list[Finding]:
    """CUDA devices with their driver, a product computed on each, their free memory, and NCCL; or that there are none."""
    promised = devices_promised()
    if not torch.cuda.is_available():
        if promised:
            remedy = "compare nvidia-smi with the CUDA version that torch was built for, or install the torch build for this driver"
            built = f"torch {torch.__version__} was built for CUDA {torch.version.cuda}"
            return [Finding.failed("devices", f"{promised}, but torch sees no CUDA device ({built})", remedy)]
        return [Finding.warning("devices", "no CUDA device: this node would train on its CPU", "on a GPU node ask the scheduler for GPUs")]
    findings = []
    for number in range(torch.cuda.device_count()):
        findings.append(_check_device(number))
    nccl = nccl_version()
    if nccl is None:
        findings.append(Finding.failed("nccl", "torch was built without NCCL", "install PyTorch's own CUDA build"))
    else:
        findings.append(Finding.ok("nccl", f"NCCL {nccl}"))
    return findings


def devices_promised() -> str:
    """What says that there should be a device here; empty where nothing does."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "").strip(" ,") not in ("", "-1", "NoDevFiles"):
        return f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']}"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # hidden on purpose
        return ""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return "there are /dev/nvidia* files"
    return ""


def _check_device(number: int) -> Finding:
    """A product on the device against the CPU's, and whether somebody else is on it."""
    name = torch.cuda.get_device_name(number)
    try:
        generator = torch.Generator().manual_seed(number)
        left, right = (torch.randint(-4, 5, (256, 256), generator=generator).float() for _ in range(2))
        wrong = not torch.equal((left.cuda(number) @ right.cuda(number)).cpu(), left @ right)  # small integers: exact on both
        free, total = torch.cuda.mem_get_info(number)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return Finding.failed(
            "devices", f"cuda:{number} {name} cannot be used ({reason})", "look at nvidia-smi on this node and leave it out"
        )
    if wrong:
        return Finding.failed("devices", f"cuda:{number} {name} computes wrong products", "take the node out of service")
    told = f"cuda:{number} {name}, {free / _GIB:.0f} of {total / _GIB:.0f} GiB free, driver {_driver()}"
    if free < _LEAST_FREE_SHARE * total:
        return Finding.warning("devices", told, "another process holds memory on it: nvidia-smi names it")
    return Finding.ok("devices", told)


def _driver() -> str:
    """The driver's version as nvidia-smi tells it."""
    if shutil.which("nvidia-smi") is None:
        return "of unknown version (no nvidia-smi)"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.split()
    except subprocess.TimeoutExpired:
        return "not told: nvidia-smi hangs"
    return lines[0] if lines else "of unknown version"


def check_memory(shared: Path = Path("/dev/shm")) -> list[Finding]:
    """Free memory, the shared memory that data workers hand batches over in, and the cores that this process may use."""
    findings = []
    free = psutil.virtual_memory().available / _GIB
    if free < _LEAST_MEMORY_GIB:
        findings.append(Finding.warning("memory", f"{free:.1f} GiB free", "request more memory from the scheduler, or end what holds it"))
    else:
        findings.append(Finding.ok("memory", f"{free:.1f} GiB free"))
    if shared.is_dir():
        free = shutil.disk_usage(shared).free / _GIB
        if free < _LEAST_SHARED_GIB:
            remedy = "data workers end with a bus error: give a container more (docker --shm-size=8g), or set data.num_workers: 0"
            findings.append(Finding.warning("shared memory", f"{free:.2f} GiB free in {shared}", remedy))
        else:
            findings.append(Finding.ok("shared memory", f"{free:.1f} GiB free in {shared}"))
    cores = usable_cores()
    findings.append(Finding.ok("cores", f"{cores} for this process"))
    return findings


def usable_cores() -> int:
    """Cores that this process may run on, which under a scheduler are fewer than the node has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def existing(folder: Path) -> Path:
    """``folder``, or the nearest folder above it that exists: a run makes the rest."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def check_folder(folder: Path) -> list[Finding]:
    """Write a file as checkpoints are written, read it again and remove it; and tell the free space."""
    place = existing(folder)
    name = str(place) if place == folder.absolute() else f"{place} (for {folder})"
    if not place.is_dir():
        return [Finding.failed("folder", f"{place} is not a folder", "give the folder that runs are written to")]
    probe, content = place / f".mimdit-doctor-{secrets.token_hex(6)}", secrets.token_bytes(1 << 16)
    try:
        with replace_when_whole(probe) as temporary:
            temporary.write_bytes(content)
        read = probe.read_bytes()
        probe.unlink()
    except OSError as error:
        remedy = "give a folder that you may write to, or free its quota"
        return [Finding.failed("folder", f"{name} cannot be written ({error.strerror or error})", remedy)]
    if read != content:
        return [Finding.failed("folder", f"{name} gives other bytes than were written", "do not use this file system")]
    usage, files = shutil.disk_usage(place), os.statvfs(place)
    told = f"{name} is written, {usage.free / _GIB:.0f} of {usage.total / _GIB:.0f} GiB free"
    if files.f_files and not files.f_favail:
        return [Finding.failed("folder", f"{name} has no file names (inodes) left", "remove small files there")]
    if usage.free < _NEEDED_GIB * _GIB:
        return [Finding.failed("folder", told, "make room: a checkpoint of a large model takes gigabytes")]
    if usage.free < _COMFORTABLE_GIB * _GIB:
        return [Finding.warning("folder", told, "make room, or keep fewer checkpoints")]
    return [Finding.ok("folder", told)]
