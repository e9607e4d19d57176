"""Software versions: check them against the requirements of the package, and list those that must agree on all ranks."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from torch.cuda import nccl

from mimdit.diagnosis.finding import Finding

_ROOT = Path(__file__).resolve().parents[2]
_OURS = ("mimdit", "datamodules", "callbacks")
_NAMED = ("torch", "lightning", "diffusers", "webdataset")


def check_software() -> list[Finding]:
    """Report the versions, and check that every dependency is installed in an allowed version."""
    versions = software_versions()
    named = ", ".join(f"{name} {versions[name]}" for name in ("python", *_NAMED, "mimdit"))
    findings = [Finding.ok("software", f"{named} (code {versions['code']}{_commit()})")]
    wrong = unmet_requirements()
    if wrong is None:
        remedy = "pip install -e . in the repository, so that versions can be checked"
        return [*findings, Finding.warning("packages", "mimdit is not installed, only found on the Python path", remedy)]
    if wrong:
        remedy = "pip install -e . -c constraints.txt in the repository"
        return [*findings, Finding.failed("packages", "; ".join(wrong), remedy)]
    return [*findings, Finding.ok("packages", "every dependency has a version that pyproject.toml allows")]


def software_versions() -> dict[str, str]:
    """Return what must agree on all ranks: versions, and under ``code`` a checksum of this project's source files."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "mimdit": _version("mimdit")}
    versions |= {name: _version(name) for name in _NAMED if name != "torch"}
    versions |= {"cuda": str(torch.version.cuda), "nccl": nccl_version() or "none", "code": code_checksum()}
    return versions


def nccl_version() -> str | None:
    """Return the NCCL version PyTorch was built with; None without NCCL."""
    if not (torch.distributed.is_available() and torch.distributed.is_nccl_available()):
        return None
    return ".".join(map(str, nccl.version()))


def code_checksum() -> str:
    """Return the first twelve hexadecimal digits of the SHA-256 over names and contents of this project's source files."""
    digest = hashlib.sha256()
    for path in sorted(path for package in _OURS for path in (_ROOT / package).rglob("*.py")):
        digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def unmet_requirements(package: str = "mimdit") -> list[str] | None:
    """Return the dependencies of ``package`` that are missing or in a wrong version; None if ``package`` is not installed."""
    try:
        required = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return None
    wrong = []
    for requirement in map(Requirement, required):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version == "missing":
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, {requirement.specifier} is needed")
    return wrong


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _commit() -> str:
    """Return the commit of a checkout as text to append; empty elsewhere."""
    if not (_ROOT / ".git").exists():
        return ""
    try:
        result = subprocess.run(["git", "-C", str(_ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f", commit {result.stdout.strip()}" if result.returncode == 0 else ""
