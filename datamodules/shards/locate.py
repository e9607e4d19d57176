"""From what a config names (a folder, several, a glob, a URL) to one index of shards."""

import dataclasses
import glob
from fnmatch import fnmatch
from pathlib import Path

from datamodules.shards.index import INDEX_NAME, ShardEntry, ShardError, ShardIndex
from datamodules.shards.sidecar import Sidecar
from datamodules.shards.store import ShardStore, is_remote, place_of


def open_index(places: str | list[str], store: ShardStore) -> ShardIndex:
    """Read the index of what ``places`` names; of several, the join.

    A place is a local folder, a glob of folders (``data/foundir-*``), a glob of tars inside a folder (``data/foundir/0?*.tar``), or the
    URL of a folder (``https://host/foundir``; ``pipe:aws s3 cp s3://bucket/foundir/{} -``, where ``{}`` stands for a file's name,
    which the store must allow).

    Raises:
        ShardError: A place matches nothing, an index or a local tar is missing or damaged, two folders have shards of one name, or their
            latents do not make one batch.
    """
    places = [places] if isinstance(places, str) else list(places)
    if not places:
        raise ShardError("No folder of shards is named. Give at least one.")
    indices = [index for place in places for index in _open(place, store)]
    return indices[0] if len(indices) == 1 else _join(indices)


def sidecar_of(index: ShardIndex, shard: ShardEntry, store: ShardStore) -> Sidecar:
    """Read the sidecar of an index's entry, wherever it lies.

    Raises:
        ShardError: It is missing, damaged, or lists other samples than the index.
    """
    folder = index.homes.get(shard.name, str(index.folder))
    name = Path(shard.name).with_suffix(".json").name
    place = place_of(folder, name)
    sidecar = Sidecar.parse(place, store.read_small(place))
    if len(sidecar.spans) < shard.samples:
        raise ShardError(f"{place} lists {len(sidecar.spans)} samples, the index {shard.samples}: it is of another tar. Copy it again.")
    return sidecar


def shard_place(index: ShardIndex, shard: ShardEntry) -> str:
    """Where the tar of an index's entry is."""
    return place_of(index.homes.get(shard.name, str(index.folder)), shard.name)


def _open(place: str, store: ShardStore) -> list[ShardIndex]:
    """The indices that one place names."""
    if is_remote(place):
        return [ShardIndex.parse(place, store.read_small(place_of(place, INDEX_NAME)))]
    if not glob.has_magic(place):
        return [ShardIndex.load(place)]
    folder, pattern = Path(place).parent, Path(place).name
    if (folder / INDEX_NAME).is_file():
        index = ShardIndex.load(folder)
        shards = tuple(shard for shard in index.shards if fnmatch(shard.name, pattern))
        if not shards:
            raise ShardError(f"No shard that {folder / INDEX_NAME} lists matches {pattern}. Its groups: {', '.join(index.groups)}.")
        return [dataclasses.replace(index, shards=shards)]
    folders = sorted(path for path in glob.glob(place) if (Path(path) / INDEX_NAME).is_file())
    if not folders:
        raise ShardError(f"{place} matches no folder of shards (one with an {INDEX_NAME}).")
    return [ShardIndex.load(path) for path in folders]


def _join(indices: list[ShardIndex]) -> ShardIndex:
    homes: dict[str, str] = {}
    for index in indices:
        for shard in index.shards:
            if shard.name in homes:
                raise ShardError(f"{homes[shard.name]} and {index.folder} both have a shard {shard.name}. Convert both into one folder.")
            homes[shard.name] = str(index.folder)
    if len({_latents_of(index) for index in indices}) > 1:
        told = "; ".join(f"{index.folder} holds {_latents_of(index) or 'images alone'}" for index in indices)
        raise ShardError(f"These folders do not make one batch: {told}. Encode all by one autoencoder, of one crop.")
    shards = tuple(sorted((shard for index in indices for shard in index.shards), key=lambda shard: shard.name))
    return ShardIndex(", ".join(str(index.folder) for index in indices), shards, indices[0].options, homes)


def _latents_of(index: ShardIndex) -> str | None:
    """What the cached latents of one batch must agree in, in words; None where there are none."""
    latents = index.options.get("latents")
    if latents is None:
        return None
    images = " with images" if latents["images"] else ""
    return f"latents of {latents['crop']} pixels by the autoencoder of sha256 {latents['codec']['sha256']}{images}"
