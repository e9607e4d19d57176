"""Weight files of metrics: where each is loaded from, and how it is checked, fetched or fitted. Works without pyiqa."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.error import URLError

import torch
from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from mimdit.core.files import replace_when_whole


@dataclass(frozen=True)
class WeightFile:
    """A file that a metric loads.

    Attributes:
        url: Address to download it from.
        place: Path that the loading code reads.
        sha256: Its checksum, or the beginning of it; empty if unknown.
        always_checked: If true, the loading code compares the checksum itself, and downloads the file again where it differs.
    """

    url: str
    place: Path
    sha256: str = ""
    always_checked: bool = False

    def problem(self) -> str | None:
        """Return the reason why the file cannot be used; None if it can."""
        if not self.place.is_file():
            return f"needs {self.url} as {self.place}"
        if self.always_checked and not _checksum(self.place, self.place.stat().st_mtime_ns).startswith(self.sha256):
            return f"needs {self.url} as {self.place}, where there is a damaged file of that name"
        return None

    def take(self, folder: Path) -> bool:
        """Copy it from ``folder``, if it lies there under its name, to its place; return true if it was there.

        Raises:
            ValueError: The folder's file has another checksum.
        """
        source = folder / self.place.name
        if not source.is_file():
            return False
        if not _checksum(source, source.stat().st_mtime_ns).startswith(self.sha256):
            raise ValueError(f"{source} is damaged or another file: its SHA-256 does not begin with {self.sha256}; fetch {self.url} again")
        self.place.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_whole(self.place) as temporary:
            shutil.copyfile(source, temporary)
        return True

    def fetch(self) -> None:
        """Download it to its place; the file is whole or absent.

        Raises:
            OSError: The address cannot be reached.
            ValueError: The download has another checksum.
        """
        self.place.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(self.url, str(self.place), hash_prefix=self.sha256 or None, progress=False)
        except URLError as error:
            raise OSError(f"{self.url} cannot be reached ({error.reason}). {_elsewhere(self.place)}") from error
        except RuntimeError as error:  # torch raises it for another checksum
            raise ValueError(f"{self.url} did not come as it should ({error}); fetch it again") from error


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the Hugging Face hub, in the hub's own cache."""

    repository: str
    name: str

    @property
    def _folder(self) -> Path:
        return Path(constants.HF_HUB_CACHE, "models--" + self.repository.replace("/", "--"))

    @property
    def place(self) -> Path:
        """Path in the cache, or the folder that it belongs in."""
        found = try_to_load_from_cache(self.repository, self.name)
        return Path(found) if isinstance(found, str) else self._folder

    def problem(self) -> str | None:
        """Return the reason why the file cannot be used; None if it can."""
        found = try_to_load_from_cache(self.repository, self.name)
        return None if isinstance(found, str) else f"needs {self.name} of {self.repository} on the Hugging Face hub in {self.place}"

    def take(self, folder: Path) -> bool:
        """Copy the repository's folder of another hub cache, if ``folder`` holds it, into this one; return true if it was there."""
        source = folder / self._folder.name
        if not source.is_dir():
            return False
        shutil.copytree(source, self._folder, symlinks=True, dirs_exist_ok=True)
        return True

    def fetch(self) -> None:
        """Download it into the cache.

        Raises:
            OSError: The address cannot be reached.
        """
        try:
            hf_hub_download(self.repository, self.name)
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            message = f"{self.name} of {self.repository} cannot be reached on the Hugging Face hub. {_elsewhere(self.place)}"
            raise OSError(message) from error


@dataclass(frozen=True)
class FittedFile:
    """A file that a command of this project writes; it cannot be downloaded.

    Attributes:
        place: Path that the loading code reads.
        command: The command.
    """

    place: Path
    command: str

    def problem(self) -> str | None:
        """Return the reason why the file cannot be used; None if it can."""
        return None if self.place.is_file() else f"needs {self.place}, which {self.command} writes"


def _elsewhere(place: Path) -> str:
    return f"Where there is a network run mimdit metrics fetch, and copy the file to {place}"


@cache
def _checksum(path: Path, changed: int) -> str:
    """Return the SHA-256 of a file last modified at ``changed``; it is cached, as large files take seconds."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_PYIQA_REPOSITORY = "chaofengc/IQA-PyTorch-Weights"

_CLIP_SHA256 = {
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
}


def pyiqa_cache() -> Path:
    """Return the folder that pyiqa loads its weights from; where pyiqa is imported already, the folder that it chose."""
    loaded = sys.modules.get("pyiqa.utils.download_util")
    return Path(torch.hub.get_dir(), "pyiqa") if loaded is None else Path(loaded.DEFAULT_CACHE_DIR)


def of_pyiqa(name: str) -> WeightFile:
    """Return a file of pyiqa's repository of weights; pyiqa keeps it under its name in the URL, where "+" is "%2B"."""
    url = hf_hub_url(_PYIQA_REPOSITORY, name)
    return WeightFile(url, pyiqa_cache() / os.path.basename(url))


def of_fit() -> FittedFile:
    """Return the model of pristine images that this project fits for NIQE."""
    return FittedFile(pyiqa_cache() / "niqe_fitted.mat", "mimdit metrics fit-niqe FOLDER")


def of_torchvision(model: str) -> WeightFile:
    """Return the ImageNet weights ``IMAGENET1K_V1`` of a torchvision model."""
    from torchvision.models import get_model_weights

    url = get_model_weights(model)["IMAGENET1K_V1"].url
    beginning = Path(url).stem.rpartition("-")[2]
    return WeightFile(url, Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url), beginning)


def of_clip(model: str) -> WeightFile:
    """Return an archive of OpenAI's CLIP; pyiqa compares its checksum, a part of the URL, at every load."""
    sha256, name = _CLIP_SHA256[model], f"{model.replace('/', '-')}.pt"
    place = Path(torch.hub.get_dir()) / "clip" / name
    return WeightFile(f"https://openaipublic.azureedge.net/clip/models/{sha256}/{name}", place, sha256, always_checked=True)


def of_timm(repository: str) -> HubFile:
    """Return the weights of a timm model."""
    return HubFile(repository, "model.safetensors")
