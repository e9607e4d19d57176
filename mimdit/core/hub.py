"""The Hugging Face hub: repositories of saved models, to read from and to write to."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any, cast

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

HTTPError = HfHubHTTPError.__bases__[0]
"""Error of the library that huggingface_hub sends requests with, which differs by version: a refused connection, for one."""

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def local_folder(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Return the folder of a saved model: ``name`` if it is a folder, else the downloaded repository ``owner/name``.

    Args:
        name: A folder, which comes first, or a repository on the hub.
        revision: Branch, tag or commit of the repository.
        token: Access token; None for that of ``hf auth login``.
        cache_dir: Folder for downloads; None for the hub's own.
        local_files_only: If true, use what was downloaded earlier, without a connection.
        force_download: If true, download again.

    Raises:
        ValueError: There is neither such a folder nor such a repository, or the hub cannot be reached.
    """
    if Path(name).exists() or not _REPOSITORY.fullmatch(str(name)):
        return Path(name)
    places = {"cache_dir": cache_dir, "local_files_only": local_files_only, "force_download": force_download}
    try:
        return Path(snapshot_download(str(name), revision=revision, token=token, **places))
    except RepositoryNotFoundError as error:
        remedy = "check the name; for a private repository give token, or log in with `hf auth login`"
        raise ValueError(f"{name} is neither a folder nor a repository on the hub that can be read; {remedy}") from error
    except RevisionNotFoundError as error:
        raise ValueError(f"the repository {name} has no revision {revision!r}; name a branch, a tag or a commit") from error
    except (HTTPError, OSError) as error:
        remedy = "connect once, or give a folder" if local_files_only else "check the connection and HF_ENDPOINT, or give a folder"
        raise ValueError(
            f"{name} is not a folder here, and the hub's repository of that name could not be read: {error}; {remedy}"
        ) from error


class PushToHub:
    """Upload of a model that has ``save_pretrained(folder)``."""

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
                commit = api.upload_folder(repo_id=repo_id, folder_path=folder, **upload)
            except (HTTPError, OSError) as error:
                raise ValueError(
                    f"{repo_id} could not be uploaded: {error}; check the name, the connection and the token's rights"
                ) from error
        return commit.pr_url or commit.commit_url
