"""Which names are those of degradation groups."""

from collections.abc import Collection
from functools import cache

from datamodules.degradations.groups import atoms_of_group

NO_GROUP = "not named as a group"
"""Why an archive or a folder is left aside."""


@cache
def is_group(name: str) -> bool:
    """Whether a folder or archive of this name holds a degradation group, as ``08Haze`` does."""
    try:
        atoms_of_group(name)
    except ValueError:
        return False
    return True


def choose_groups(groups: Collection[str] | None, present: Collection[str], where: object) -> list[str]:
    """The groups to list, sorted: all that are present, or those that are asked for.

    Raises:
        ValueError: A group that is asked for is not present.
    """
    if groups is None:
        return sorted(present)
    if absent := sorted(set(groups) - set(present)):
        raise ValueError(f"{where} has no group {', '.join(absent)}. It has {', '.join(sorted(present)) or 'none'}.")
    return sorted(set(groups))
