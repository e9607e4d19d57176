"""Joining of several folders of shards, whose tars may have the same names, into one."""

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datamodules.shards.folder import close_folder, is_done, name_full_disk, remove_stale, shards_in
from datamodules.shards.index import INDEX_NAME, SCHEMA, ShardError, ShardIndex, Sidecar
from mimdit.core.files import replace_when_whole

_MOST = 1_000_000
"""Shards of a group that six digits can number."""


def join_folders(destination: Path, sources: Sequence[Path]) -> ShardIndex:
    """Join the shards of ``sources`` in a folder, numbered anew in each group, in the order of the sources.

    A tar is a hard link where the file system allows it, else a copy. An interrupted call can be repeated; the index is written last.

    Returns:
        The index of the folder.

    Raises:
        ShardError: A source is damaged, is the destination, the sources' latents differ, or the destination holds other shards.
    """
    indices = [ShardIndex.load(source) for source in sources]
    if any(source.resolve() == destination.resolve() for source in sources):
        raise ShardError(f"{destination} is one of the folders to join. Give another folder to write to.")
    latents = [index.options.get("latents") for index in indices]
    if any(each != latents[0] for each in latents):
        raise ShardError(f"{', '.join(map(str, sources))} differ in their latents. Encode all with one autoencoder and one crop.")
    planned = _numbered(indices)
    _refuse_others(destination, planned)
    destination.mkdir(parents=True, exist_ok=True)
    remove_stale(destination, None)
    with name_full_disk(destination):
        for name, tar in planned.items():
            sidecar = Sidecar.load(tar)
            sidecar = dataclasses.replace(sidecar, entry=dataclasses.replace(sidecar.entry, name=name))
            if is_done(destination, name) and Sidecar.load(destination / name) == sidecar:
                continue
            with replace_when_whole(destination / name) as path:
                _link(tar, path)
            sidecar.save(destination)
    options = {"schema": SCHEMA, "joined": [index.options for index in indices]}
    if latents[0] is not None:
        options["latents"] = latents[0]
    return close_folder(destination, list(planned), options)[0]


def _numbered(indices: Sequence[ShardIndex]) -> dict[str, Path]:
    """Return each tar by its new name."""
    counts: Counter[str] = Counter()
    planned = {}
    for index in indices:
        for shard in index.shards:
            planned[f"{shard.group}-{counts[shard.group]:06d}.tar"] = index.path(shard)
            counts[shard.group] += 1
            if counts[shard.group] > _MOST:
                raise ShardError(f"{shard.group} has more than {_MOST} shards, which six digits cannot number. Join fewer folders.")
    return planned


def _refuse_others(destination: Path, planned: dict[str, Path]) -> None:
    """Raise if a folder holds shards that are not those to be written."""
    for tar in shards_in(destination):
        if tar.name not in planned or tar.stat().st_size != planned[tar.name].stat().st_size:
            raise ShardError(f"{destination} holds other shards, such as {tar.name}. Give an empty folder, or remove them.")
    if (destination / INDEX_NAME).is_file() and not shards_in(destination):
        raise ShardError(f"{destination} holds the {INDEX_NAME} of other shards. Give an empty folder, or remove it.")


def _link(tar: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    try:
        os.link(tar, path)
    except OSError:  # another file system, or one without links
        shutil.copyfile(tar, path)
