"""The shard format: WebDataset tars of one group each, a sidecar beside every tar, one index for the folder.

A sample is ``<key>.lq.<suffix>``, ``<key>.gt.<suffix>`` (png, jpg, bmp, tif, webp) and ``<key>.json``; the key is
``<group>/<name>`` and holds no dot. The json says ``group``, ``atoms`` (a list out of `mimdit.core.batch.ATOMS`), ``width``, ``height`` and
whatever else its maker knew. Beside or in place of the images there may be ``<key>.latents.safetensors``: see `datamodules.latents`.
Whatever else a tar holds is never read. (ours)
"""

from datamodules.shards.index import INDEX_NAME, SCHEMA, ShardEntry, ShardError, ShardIndex
from datamodules.shards.locate import open_index, shard_place, sidecar_of
from datamodules.shards.reader import RawSample, parse_sample, read_shard
from datamodules.shards.sidecar import SampleSpan, Sidecar, sidecar_path
from datamodules.shards.store import ShardStore, is_remote
from datamodules.shards.writer import LATENTS_NAME, shard_name, write_shard

__all__ = [
    "INDEX_NAME",
    "LATENTS_NAME",
    "SCHEMA",
    "RawSample",
    "SampleSpan",
    "ShardEntry",
    "ShardError",
    "ShardIndex",
    "ShardStore",
    "Sidecar",
    "is_remote",
    "open_index",
    "parse_sample",
    "read_shard",
    "shard_name",
    "shard_place",
    "sidecar_of",
    "sidecar_path",
    "write_shard",
]
