"""Where each rank is, as small files that the others read when nothing moves any more."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_SHOWN = 8
"""Most ranks, or groups of ranks, that a line names."""


@dataclass(frozen=True)
class Pulse:
    """Where a rank is: ``beats`` hooks after the start of its ``batches``-th training batch, with ``step`` optimiser steps done."""

    rank: int
    step: int = 0
    batches: int = 0
    beats: int = 0
    place: str = "starting"

    def write(self, folder: Path) -> None:
        """Replace this rank's file. Not synced: a power failure ends the run anyway."""
        path = pulse_path(folder, self.rank)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)


def pulse_path(folder: Path, rank: int) -> Path:
    """This rank's file."""
    return folder / f"rank{rank:05d}.json"


def read_pulses(folder: Path, ranks: int, *, oldest: float) -> tuple[list[Pulse], list[int]]:
    """Everybody's last pulse, and who has not written one for ``oldest`` seconds, by the clock of the file system."""
    pulses, ages, silent = [], {}, []
    for rank in range(ranks):
        path = pulse_path(folder, rank)
        try:
            pulses.append(Pulse(**json.loads(path.read_text())))
            ages[rank] = path.stat().st_mtime
        except OSError:  # it never came as far as that
            silent.append(rank)
    newest = max(ages.values(), default=time.time())
    return pulses, sorted(silent + [rank for rank, written in ages.items() if newest - written > oldest])


def told(pulses: list[Pulse], silent: list[int]) -> str:
    """In a sentence, who is behind and where the others are."""
    places: dict[tuple[int, int], list[Pulse]] = {}
    for pulse in sorted(pulses, key=lambda pulse: (pulse.batches, pulse.beats, pulse.rank)):
        places.setdefault((pulse.batches, pulse.beats), []).append(pulse)
    first, *others = [f"{_ranks([pulse.rank for pulse in alike])} {_where(alike[0])}" for alike in places.values()]
    if others:
        shown = "; ".join(others[:_SHOWN]) + ("; …" if len(others) > _SHOWN else "")
        sentence = f"Behind is {first}, while the others wait: {shown}"
    else:
        sentence = f"All that report are at one place: {first}"
    return sentence + (f". Not heard of any more: {_ranks(silent)}, dead, stopped or letting no thread run" if silent else "") + "."


def _where(pulse: Pulse) -> str:
    return f"after step {pulse.step}, {pulse.place}"


def _ranks(ranks: list[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:_SHOWN])
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}" + (f" and {len(ranks) - _SHOWN} more" if len(ranks) > _SHOWN else "")
