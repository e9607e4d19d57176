"""Shard format: WebDataset tars of one group each, a sidecar beside every tar, one index for the folder. Not in the paper.

A sample is ``<key>.lq.<suffix>``, ``<key>.gt.<suffix>`` (png, jpg, bmp, tif, webp) and ``<key>.json``; the key is ``<group>/<name>``
without a dot. The json has ``group``, ``atoms`` (some of `mimdit.core.batch.ATOMS`), ``width``, ``height`` and further fields of its
writer. Beside or instead of the images there may be ``<key>.latents.safetensors``: see `datamodules.latents`. Other members of a tar are
never read.
"""

from datamodules.shards.index import INDEX_NAME, SCHEMA, SampleSpan, ShardEntry, ShardError, ShardIndex, Sidecar, sidecar_path
from datamodules.shards.store import ShardStore, is_remote, open_index, shard_place, sidecar_of
from datamodules.shards.tar import LATENTS_NAME, RawSample, parse_sample, read_shard, shard_name, write_shard

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
