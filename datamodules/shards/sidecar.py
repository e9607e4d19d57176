"""The sidecar beside each tar: where every sample lies. A shard is done when its sidecar exists."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from datamodules.shards.index import SCHEMA, ShardEntry, ShardError
from mimdit.files import replace_when_whole


@dataclass(frozen=True)
class SampleSpan:
    """Where one sample lies in its tar: ``size`` bytes from byte ``offset`` on, tar headers included."""

    key: str
    offset: int
    size: int


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar says: the tar's entry for the index, and the span of every sample in stored order."""

    entry: ShardEntry
    spans: tuple[SampleSpan, ...]

    def save(self, folder: Path) -> None:
        """Write the sidecar beside its tar, whole or not at all."""
        content = {"schema": SCHEMA, "entry": dataclasses.asdict(self.entry), "spans": [dataclasses.astuple(span) for span in self.spans]}
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
        try:
            content = json.loads(path.read_text())
            if content["schema"] == SCHEMA:
                return cls(ShardEntry(**content["entry"]), tuple(SampleSpan(*span) for span in content["spans"]))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ShardError(f"{path} is not a sidecar ({type(error).__name__}: {error}). Write the folder anew.") from error
        raise ShardError(f"{path} has schema version {content['schema']!r}; this version of the project reads {SCHEMA}. Write it anew.")


def sidecar_path(shard: Path) -> Path:
    """Return the path of a tar's sidecar: ``08Haze-000012.tar`` has ``08Haze-000012.json``."""
    return shard.with_suffix(".json")
