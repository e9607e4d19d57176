"""Files of a hub repository, and what to say when they cannot be had: most labs train where there is no network, on gated weights."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, HFValidationError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

EXAMPLE = "stabilityai/stable-diffusion-3.5-medium"


def looks_like_hub_id(name: str) -> bool:
    """Whether ``name`` has the form ``owner/repository``."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def download(repository: str, patterns: list[str], *, revision: str | None = None) -> tuple[Path, str]:
    """The repository's files that match ``patterns``, from the hub's cache or the hub.

    Args:
        repository: The hub id, ``owner/repository``.
        patterns: Shell patterns of paths in the repository.
        revision: Branch, tag or commit; None for the main branch.

    Returns:
        The folder in the cache, and the commit it is of.

    Raises:
        ValueError: There is no such repository or revision, it is gated, or the hub cannot be reached and the cache lacks the files.
    """
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (HFValidationError, HTTPError, OSError) as error:
        raise ValueError(_explained(repository, patterns, revision, error)) from error
    return folder, folder.name


def _explained(repository: str, patterns: list[str], revision: str | None, error: Exception) -> str:
    page = f"https://huggingface.co/{repository}"
    include = " ".join(f"'{top}'" for top in sorted({pattern.split("/")[0] + "/*" for pattern in patterns if "/" in pattern}))
    at = f" --revision {revision}" if revision else ""
    fetch = f"hf download {repository}{at} --include {include} --local-dir FOLDER"
    if isinstance(error, GatedRepoError):
        why = f"it is gated on the hub: accept its licence at {page} and log in (hf auth login, or HF_TOKEN), or do both elsewhere, run"
    elif isinstance(error, RepositoryNotFoundError | HFValidationError):
        return (
            f"{repository!r} is no folder here and no repository of the hub that you may see: correct the spelling, or, if it is private, "
            f"log in (hf auth login, or HF_TOKEN); a hub id looks like {EXAMPLE}"
        )
    elif isinstance(error, RevisionNotFoundError):
        return f"{repository} has no revision {revision!r} on the hub; choose a branch, tag or commit listed at {page}/commits/main"
    else:
        why = (
            f"it is no folder here, and the hub cannot be reached or is switched off (HF_HUB_OFFLINE), nor is it whole in the hub's cache "
            f"({huggingface_hub.constants.HF_HUB_CACHE}; {type(error).__name__}): on a machine with network access run"
        )
    return f"{repository} cannot be read: {why} `{fetch}`, copy FOLDER to where this runs, and give its path instead of the hub id"
