"""The Hugging Face hub: names of repositories resolved to folders, and uploads of saved models.

Most clusters have no network, and many weights are gated: the errors of `locate` name the commands that fetch the files elsewhere.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

import huggingface_hub
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, HFValidationError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id

CARD = "README.md"
"""File of a repository's model card."""

_EXAMPLE = "stabilityai/stable-diffusion-3.5-medium"


class HubOptions(TypedDict, total=False):
    """Options of reading from the hub.

    Attributes:
        revision: Branch, tag or commit of the repository.
        token: Access token; None for that of ``hf auth login``.
        cache_dir: Folder for downloads; None for the hub's own.
        local_files_only: If true, use what was downloaded earlier, without a connection.
        force_download: If true, download again.
    """

    revision: str | None
    token: str | bool | None
    cache_dir: str | Path | None
    local_files_only: bool
    force_download: bool


def local_folder(name: str | Path, **options: Unpack[HubOptions]) -> Path:
    """Return the folder of a saved model: ``name`` if it is a folder, else the downloaded repository ``owner/name``.

    Args:
        name: A folder, which takes precedence over the hub, or a repository on the hub.
        **options: See `HubOptions`.

    Raises:
        ValueError: There is neither such a folder nor such a repository, the hub cannot be reached, an option is unknown, or ``revision``
            is given for a folder.
    """
    if unknown := sorted(options.keys() - HubOptions.__optional_keys__):
        known = ", ".join(sorted(HubOptions.__optional_keys__))
        raise ValueError(f"from_pretrained has no option {', '.join(unknown)}; leave it out. Those of the hub are {known}")
    revision = options.get("revision")
    if Path(name).exists() or not _is_repository(str(name)):
        if revision is not None:
            raise ValueError(f"revision {revision!r} belongs to a repository on the hub, but {name} is a folder's path; leave revision out")
        return Path(name)
    local_files_only = options["local_files_only"] = bool(options.get("local_files_only"))  # None, the default of diffusers, is false
    try:
        return Path(huggingface_hub.snapshot_download(str(name), **options))
    except GatedRepoError as error:
        remedy = "accept its terms on its page there, and give token, or log in with `hf auth login`"
        raise ValueError(f"{name} is not a folder here, and the hub's repository of that name is gated: {remedy}") from error
    except RepositoryNotFoundError as error:
        remedy = "check the name; for a private repository give token, or log in with `hf auth login`"
        raise ValueError(f"{name} is neither a folder nor a repository on the hub that can be read; {remedy}") from error
    except RevisionNotFoundError as error:
        raise ValueError(f"the repository {name} has no revision {revision!r}; name a branch, a tag or a commit") from error
    except (HTTPError, OSError) as error:
        if local_files_only or constants.HF_HUB_OFFLINE:
            fault = f"was not downloaded to {options.get('cache_dir') or constants.HF_HUB_CACHE}; connect once, or give a folder"
        else:
            fault = f"could not be read ({_first_line(error)}); check the connection and HF_ENDPOINT, or give a folder"
        raise ValueError(f"{name} is not a folder here, and the hub's repository of that name {fault}") from error


def locate(
    pretrained: str | Path, patterns: list[str], *, revision: str | None = None, wanted: str = "a folder"
) -> tuple[Path, str | None]:
    """Return the local folder for a folder or hub id, and the hub's commit; a repository's files come from the cache or are downloaded.

    Args:
        pretrained: A folder, or a hub id ``owner/repository``.
        patterns: Shell patterns of the paths needed from a repository.
        revision: Branch, tag or commit of a hub id; None for the main branch.
        wanted: Description of the folder for error messages.

    Raises:
        ValueError: ``pretrained`` is neither, or there is no such repository or revision, it is gated, or the hub cannot be reached and the
            cache lacks files.
    """
    if Path(pretrained).is_dir():
        if revision is not None:
            raise ValueError(f"revision {revision!r} belongs to a hub id, but {pretrained} is a folder; leave revision out")
        return Path(pretrained), None
    if not _is_repository(str(pretrained)):
        raise ValueError(f"{str(pretrained)!r} is neither {wanted} nor a hub id such as {_EXAMPLE}")
    return _download(str(pretrained), patterns, revision)


def _download(repository: str, patterns: list[str], revision: str | None) -> tuple[Path, str]:
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (HTTPError, OSError) as error:
        raise ValueError(_explained(repository, patterns, revision, error)) from error
    return folder, folder.name


def _explained(repository: str, patterns: list[str], revision: str | None, error: Exception) -> str:
    page = f"https://huggingface.co/{repository}"
    include = " ".join(f"'{top}'" for top in sorted({pattern.split("/")[0] + "/*" for pattern in patterns if "/" in pattern}))
    at = f" --revision {revision}" if revision else ""
    fetch = f"hf download {repository}{at} --include {include} --local-dir FOLDER"
    if isinstance(error, GatedRepoError):
        why = f"it is gated on the hub: accept its license at {page} and log in (hf auth login, or HF_TOKEN), or do both elsewhere, run"
    elif isinstance(error, RepositoryNotFoundError):
        return (
            f"{repository!r} is no folder here and no repository of the hub that you may see: correct the spelling, or, if it is private, "
            f"log in (hf auth login, or HF_TOKEN); a hub id looks like {_EXAMPLE}"
        )
    elif isinstance(error, RevisionNotFoundError):
        return f"{repository} has no revision {revision!r} on the hub; choose a branch, tag or commit listed at {page}/commits/main"
    else:
        why = (
            f"it is no folder here, and the hub cannot be reached or is switched off (HF_HUB_OFFLINE), nor is it whole in the hub's cache "
            f"({constants.HF_HUB_CACHE}; {type(error).__name__}): on a machine with network access run"
        )
    return f"{repository} cannot be read: {why} `{fetch}`, copy FOLDER to where this runs, and give its path instead of the hub id"


def _is_repository(name: str) -> bool:
    """Return true if the hub allows a repository of this name, ``owner/name``."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message; the hub's client writes paragraphs."""
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")


class PushToHub:
    """Upload of a model that has ``save_pretrained(folder)``."""

    def write_card(self, folder: Path, title: str) -> None:
        """Write a model card to a folder that is about to be uploaded; nothing, unless a class has a card."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload the model",
        create_pr: bool = False,
        **saving: Any,
    ) -> str:
        """Upload what ``save_pretrained`` writes to a repository, which is created if there is none; return the commit's address.

        A repository that has a model card keeps it.

        Args:
            repo_id: Repository, ``owner/name``.
            private: If true, a new repository is private; None for the owner's default.
            token: Access token; None for that of ``hf auth login``.
            revision: Branch to commit to; None for main.
            commit_message: Message of the commit.
            create_pr: If true, open a pull request instead of committing to the branch.
            **saving: Arguments of ``save_pretrained``.

        Raises:
            ValueError: The hub refused, or could not be reached.
        """
        with tempfile.TemporaryDirectory() as folder:
            cast(Any, self).save_pretrained(folder, **saving)
            upload = {"revision": revision, "commit_message": commit_message, "create_pr": create_pr}
            try:
                api = HfApi(token=token)
                repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
                if not api.file_exists(repo_id, CARD, revision=revision):
                    self.write_card(Path(folder), repo_id)
                commit = api.upload_folder(repo_id=repo_id, folder_path=folder, **upload)
            except (HTTPError, OSError, HFValidationError) as error:
                raise ValueError(
                    f"{repo_id} could not be uploaded: {_first_line(error)}; check the name, the connection and the token's rights"
                ) from error
        return commit.pr_url or commit.commit_url
