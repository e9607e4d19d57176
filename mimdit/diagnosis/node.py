"""Checks of one node: devices and their driver, NCCL, memory, cores, and the folder that a run writes to."""

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
    """Check the CUDA devices (driver, a matrix product on each, free memory) and NCCL; warn if there are no devices."""
    promised = devices_promised()
    if not torch.cuda.is_available():
        if promised:
            remedy = "compare nvidia-smi with the CUDA version that torch was built for, or install the torch build for this driver"
            built = f"torch {torch.__version__} was built for CUDA {torch.version.cuda}"
            return [Finding.failed("devices", f"{promised}, but torch sees no CUDA device ({built})", remedy)]
        return [Finding.warning("devices", "no CUDA device: this node would train on its CPU", "request GPUs from the scheduler")]
    findings = []
    for number in range(torch.cuda.device_count()):
        findings.append(_check_device(number))
    nccl = nccl_version()
    if nccl is None:
        findings.append(Finding.failed("nccl", "torch was built without NCCL", "install a CUDA build of PyTorch"))
    else:
        findings.append(Finding.ok("nccl", f"NCCL {nccl}"))
    return findings


def devices_promised() -> str:
    """Return the evidence, in words, that this node should have a device; empty if there is none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "").strip(" ,") not in ("", "-1", "NoDevFiles"):
        return f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']}"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # hidden on purpose
        return ""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return "there are /dev/nvidia* files"
    return ""


def _check_device(number: int) -> Finding:
    """Compare a matrix product on the device with the CPU's, and check for memory held by other processes."""
    name = torch.cuda.get_device_name(number)
    try:
        generator = torch.Generator().manual_seed(number)
        left, right = (torch.randint(-4, 5, (256, 256), generator=generator).float() for _ in range(2))
        wrong = not torch.equal((left.cuda(number) @ right.cuda(number)).cpu(), left @ right)  # small integers: exact on both
        free, total = torch.cuda.mem_get_info(number)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return Finding.failed(
            "devices", f"cuda:{number} {name} cannot be used ({reason})", "check nvidia-smi on this node, and exclude the node"
        )
    if wrong:
        return Finding.failed("devices", f"cuda:{number} {name} computes wrong products", "take the node out of service")
    text = f"cuda:{number} {name}, {free / _GIB:.0f} of {total / _GIB:.0f} GiB free, driver {_driver()}"
    if free < _LEAST_FREE_SHARE * total:
        return Finding.warning("devices", text, "another process holds memory on it; nvidia-smi lists it")
    return Finding.ok("devices", text)


def _driver() -> str:
    """Return the driver version that nvidia-smi reports."""
    if shutil.which("nvidia-smi") is None:
        return "unknown (no nvidia-smi)"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.split()
    except subprocess.TimeoutExpired:
        return "unknown: nvidia-smi hangs"
    return lines[0] if lines else "unknown"


def check_memory(shared: Path = Path("/dev/shm")) -> list[Finding]:
    """Check free memory, the shared memory through which data workers pass batches, and the cores usable by this process."""
    findings = []
    free = psutil.virtual_memory().available / _GIB
    if free < _LEAST_MEMORY_GIB:
        findings.append(Finding.warning("memory", f"{free:.1f} GiB free", "request more memory from the scheduler, or end other processes"))
    else:
        findings.append(Finding.ok("memory", f"{free:.1f} GiB free"))
    if shared.is_dir():
        free = shutil.disk_usage(shared).free / _GIB
        if free < _LEAST_SHARED_GIB:
            remedy = "data workers would crash with a bus error: enlarge it (docker --shm-size=8g), or set data.num_workers: 0"
            findings.append(Finding.warning("shared memory", f"{free:.2f} GiB free in {shared}", remedy))
        else:
            findings.append(Finding.ok("shared memory", f"{free:.1f} GiB free in {shared}"))
    cores = usable_cores()
    findings.append(Finding.ok("cores", f"{cores} for this process"))
    return findings


def usable_cores() -> int:
    """Return the number of cores this process may run on; under a scheduler it can be lower than the node's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def existing(folder: Path) -> Path:
    """Return ``folder`` or the nearest parent that exists; a run creates the rest."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def check_folder(folder: Path) -> list[Finding]:
    """Write a file as checkpoints are written, read it, remove it, and check the free space."""
    place = existing(folder)
    name = str(place) if place == folder.absolute() else f"{place} (for {folder})"
    if not place.is_dir():
        return [Finding.failed("folder", f"{place} is not a folder", "give a folder for runs to write to")]
    probe, content = place / f".mimdit-doctor-{secrets.token_hex(6)}", secrets.token_bytes(1 << 16)
    try:
        with replace_when_whole(probe) as temporary:
            temporary.write_bytes(content)
        read = probe.read_bytes()
        probe.unlink()
    except OSError as error:
        remedy = "give a folder with write permission, or free space in its quota"
        return [Finding.failed("folder", f"{name} cannot be written ({error.strerror or error})", remedy)]
    if read != content:
        return [Finding.failed("folder", f"{name} returns other bytes than were written", "do not use this file system")]
    usage, files = shutil.disk_usage(place), os.statvfs(place)
    text = f"{name} is writable, {usage.free / _GIB:.0f} of {usage.total / _GIB:.0f} GiB free"
    if files.f_files and not files.f_favail:
        return [Finding.failed("folder", f"{name} has no file names (inodes) left", "remove small files there")]
    if usage.free < _NEEDED_GIB * _GIB:
        return [Finding.failed("folder", text, "free space: a checkpoint of a large model takes gigabytes")]
    if usage.free < _COMFORTABLE_GIB * _GIB:
        return [Finding.warning("folder", text, "free space, or keep fewer checkpoints")]
    return [Finding.ok("folder", text)]
