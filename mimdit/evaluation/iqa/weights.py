"""The weight files of metrics: where each is looked for, whether it is there, and fetching it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.error import URLError

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled


@dataclass(frozen=True)
class WeightFile:
    """A file that a metric loads: ``place`` is where its loading code looks, ``sha256`` its checksum or the beginning of it, if known."""

    url: str
    place: Path
    sha256: str = ""
    always_checked: bool = False
    """Whether the loading code compares the checksum itself, and would download anew."""

    def problem(self) -> str | None:
        """Why it cannot be used; None where it can."""
        if not self.place.is_file():
            return f"needs {self.url} as {self.place}"
        if self.always_checked and not _checksum(self.place, self.place.stat().st_mtime_ns).startswith(self.sha256):
            return f"needs {self.url} as {self.place}, where there is a damaged file of that name"
        return None

    def fetch(self) -> None:
        """Download it to its place, whole or not at all.

        Raises:
            OSError: There is no way to it.
            ValueError: What came has another checksum.
        """
        self.place.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(self.url, str(self.place), hash_prefix=self.sha256 or None, progress=False)
        except URLError as error:
            raise OSError(f"{self.url} cannot be reached ({error.reason}). {_elsewhere(self.place)}") from error
        except RuntimeError as error:  # torch's word for another checksum
            raise ValueError(f"{self.url} did not come as it should ({error}); fetch it again") from error


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the Hugging Face hub, in the hub's own cache."""

    repository: str
    name: str

    @property
    def place(self) -> Path:
        """Where the cache has it, or the folder that it would be in."""
        found = try_to_load_from_cache(self.repository, self.name)
        return Path(found) if isinstance(found, str) else Path(constants.HF_HUB_CACHE, "models--" + self.repository.replace("/", "--"))

    def problem(self) -> str | None:
        """Why it cannot be used; None where it can."""
        found = try_to_load_from_cache(self.repository, self.name)
        return None if isinstance(found, str) else f"needs {self.name} of {self.repository} on the Hugging Face hub in {self.place}"

    def fetch(self) -> None:
        """Download it into the cache.

        Raises:
            OSError: There is no way to it.
        """
        try:
            hf_hub_download(self.repository, self.name)
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            message = f"{self.name} of {self.repository} cannot be reached on the Hugging Face hub. {_elsewhere(self.place)}"
            raise OSError(message) from error


def _elsewhere(place: Path) -> str:
    return f"Where there is a network run mimdit metrics fetch, and copy the file to {place}"


@cache
def _checksum(path: Path, changed: int) -> str:
    """SHA-256 of a file that was last changed then; large files take seconds."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_pyiqa(name: str) -> WeightFile:
    """A file of pyiqa's own repository of weights; pyiqa keeps it under its name in the URL, where a "+" is "%2B"."""
    from pyiqa.archs.arch_util import get_url_from_name
    from pyiqa.utils.download_util import DEFAULT_CACHE_DIR

    url = get_url_from_name(name)
    return WeightFile(url, Path(DEFAULT_CACHE_DIR) / os.path.basename(url))


def of_torchvision(model: str) -> WeightFile:
    """The ImageNet weights of a torchvision model, as its ``IMAGENET1K_V1``."""
    from torchvision.models import get_model_weights

    url = get_model_weights(model)["IMAGENET1K_V1"].url
    beginning = Path(url).stem.rpartition("-")[2]
    return WeightFile(url, Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url), beginning)


def of_clip(model: str) -> WeightFile:
    """An archive of OpenAI's CLIP; pyiqa compares its checksum, which stands in the URL, at every load."""
    from pyiqa.archs import clip_model

    url = clip_model._MODELS[model]
    place = Path(torch.hub.get_dir()) / "clip" / os.path.basename(url)
    return WeightFile(url, place, url.split("/")[-2], always_checked=True)


def of_timm(repository: str) -> HubFile:
    """The weights of a timm model."""
    return HubFile(repository, "model.safetensors")
