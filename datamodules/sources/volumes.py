"""The volumes of a spanned archive as one line of bytes."""

import bisect
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

_NUMBERED = re.compile(r"(?P<stem>.+)\.z(?P<number>\d+)", re.IGNORECASE | re.DOTALL)


def volume_number(name: str) -> tuple[str, int] | None:
    """``("08Haze", 1)`` of ``08Haze.z01``, in any case; None of a name that is not one of a volume before the last."""
    found = _NUMBERED.fullmatch(name)
    return (found["stem"], int(found["number"])) if found else None


def volumes_of(archive: Path) -> list[Path]:
    """The volumes of ``archive`` in order: ``08Haze.z01``, ``08Haze.z02``, …, and ``08Haze.zip`` itself, which is the last.

    Raises:
        ValueError: A volume before another one is missing, one is there twice, or ``archive`` itself is missing; the message names it.
    """
    if not archive.is_file():
        raise ValueError(f"{archive} is missing: it is the last volume, which holds the archive's directory. Copy it to the others.")
    numbered: dict[int, Path] = {}
    for path in sorted(archive.parent.iterdir()):
        stem, number = volume_number(path.name) or ("", 0)
        if stem == archive.stem:
            if number in numbered:
                raise ValueError(f"{numbered[number]} and {path.name} are both volume {number} of {archive.name}: keep one of them.")
            numbered[number] = path
    if missing := sorted(set(range(1, len(numbered) + 1)) - set(numbered)):
        names = ", ".join(volume_name(archive, number) for number in missing)
        raise ValueError(f"{archive} lacks the volume {names} beside it, while {numbered[max(numbered)].name} is there. Copy it there too.")
    return [*(numbered[number] for number in sorted(numbered)), archive]


def volume_name(archive: Path, number: int) -> str:
    """The usual name of an archive's ``number``-th volume, counted from 1: ``08Haze.z01``."""
    return f"{archive.stem}.z{number:02d}"


class Volumes:
    """Volumes of known sizes, laid end to end.

    Args:
        paths: The volumes in order.
        sizes: Their bytes.
    """

    def __init__(self, paths: Sequence[Path], sizes: Sequence[int]) -> None:
        self.paths = tuple(paths)
        self.sizes = tuple(sizes)
        self.starts = tuple(itertools.accumulate(self.sizes, initial=0))[:-1]
        self.total = sum(self.sizes)

    @classmethod
    def of(cls, archive: Path) -> "Volumes":
        """The volumes of an archive, with their sizes as they are now.

        Raises:
            ValueError: As `volumes_of`.
        """
        paths = volumes_of(archive)
        return cls(paths, [path.stat().st_size for path in paths])

    def volume_at(self, offset: int) -> Path:
        """The volume that holds byte ``offset`` of the line."""
        return self.paths[bisect.bisect_right(self.starts, offset) - 1]

    def pieces(self, offset: int, length: int) -> Iterator[tuple[Path, int, int]]:
        """Yield path, offset in it and length of what ``length`` bytes from byte ``offset`` on are made of; they must not reach too far."""
        number = bisect.bisect_right(self.starts, offset) - 1
        while length:
            within = offset - self.starts[number]
            part = min(length, self.sizes[number] - within)
            yield self.paths[number], within, part
            offset, length, number = offset + part, length - part, number + 1
