"""The sidecar beside each tar: where every sample lies. A shard is done when its sidecar exists."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from datamodules.shards.index import SCHEMA, ShardEntry, ShardError
from mimdit.core.files import replace_when_whole


@dataclass(frozen=True)
class SampleSpan:
    """Where one sample lies in its tar: ``size`` bytes from byte ``offset`` on, tar headers included."""

    key: str
    offset: int
    size: int


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar says: the tar's entry for the index, the span of every sample in stored order, and what was not taken in.

    ``rejects`` are names and reasons of pairs that were planned for the tar and could not be used.
    """

    entry: ShardEntry
    spans: tuple[SampleSpan, ...]
    rejects: tuple[tuple[str, str], ...] = ()

    def save(self, folder: Path) -> None:
        """Write the sidecar beside its tar, whole or not at all."""
        content = {
            "schema": SCHEMA,
            "entry": dataclasses.asdict(self.entry),
            "spans": [dataclasses.astuple(span) for span in self.spans],
            "rejects": self.rejects,
        }
        with replace_when_whole(sidecar_path(folder / self.entry.name)) as path:
            path.write_text(json.dumps(content) + "\n")

    @classmethod
    def load(cls, shard: Path) -> "Sidecar":
        """Read the sidecar of a tar.

        Raises:
            ShardError: It is missing, damaged or of another schema version.
        """
        path = sidecar_path(shard)
        if not path.is_file():
            raise ShardError(f"The sidecar {path} of the shard {shard.name} is missing. Copy it again or write the folder anew.")
        return cls.parse(str(path), path.read_bytes())

    @classmethod
    def parse(cls, name: str, content: bytes) -> "Sidecar":
        """Read a sidecar's content; ``name`` is for the errors, which are those of `load`."""
        try:
            read = json.loads(content)
            if read["schema"] == SCHEMA:
                spans = tuple(SampleSpan(*span) for span in read["spans"])
                entry = ShardEntry(**read["entry"])
                if any(not 0 <= span.offset < span.offset + span.size <= entry.bytes for span in spans):
                    raise ShardError(f"{name} tells of samples beyond its tar of {entry.bytes} bytes. Write the folder anew.")
                rejects = tuple((str(name), str(reason)) for name, reason in read.get("rejects", ()))
                return cls(entry, spans, rejects)
        except ShardError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{name} is not a sidecar ({type(error).__name__}: {error}). Write the folder anew.") from error
        raise ShardError(f"{name} has schema version {read['schema']!r}; this version of the project reads {SCHEMA}. Write it anew.")


def sidecar_path(shard: Path) -> Path:
    """Return the path of a tar's sidecar: ``08Haze-000012.tar`` has ``08Haze-000012.json``."""
    return shard.with_suffix(".json")
