"""Making the plan of a folder once, and refusing to mix two conversions in one folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamodules.conversion.options import Options
from datamodules.conversion.plan import make_plan, versions
from datamodules.conversion.plan_file import PLAN_NAME, StoredPlan, save_plan
from datamodules.conversion.problems import told_when_full
from datamodules.shards import INDEX_NAME
from datamodules.sources.pairing import Listing

REJECTED_NAME = "rejected.jsonl"
_REMEDY = "or convert into another folder, or give --overwrite=true to remove what is there"


def prepare(
    destination: Path, source: dict[str, Any], options: Options, list_source: Callable[[], Listing], *, overwrite: bool = False
) -> StoredPlan:
    """Return the plan of ``destination``: the one that is there, if it is of the same source and options, or else a new one.

    The plan that is there spares listing the source again. Several processes may do this at the same time: they write equal plans.

    Args:
        destination: Folder of the shards.
        source: How the user named the source; what it names must not have changed since the plan was made.
        options: How to convert.
        list_source: Lists the source.
        overwrite: Remove a conversion of another source or with other options.

    Raises:
        ValueError: The folder holds another conversion, or shards without a plan; or the source changed.
    """
    path = destination / PLAN_NAME
    foreign = shards_in(destination)  # looked for before the plan: who works here at the same time wrote the plan first
    if path.is_file():
        stored = StoredPlan.load(path)
        difference = _difference(stored, source, options)
        if difference is None:
            return stored
        if not overwrite:
            raise ValueError(f"{destination} holds another conversion: {difference}. Give what was given there, {_REMEDY}.")
        _clear(destination)
    elif foreign or (destination / INDEX_NAME).exists():
        if not overwrite:
            raise ValueError(f"{destination} holds shards but no {PLAN_NAME}, so they are of something else. Move them, {_REMEDY}.")
        _clear(destination)
    with told_when_full(destination):
        destination.mkdir(parents=True, exist_ok=True)
        save_plan(make_plan(list_source(), options, source), path)
    return StoredPlan.load(path)


def existing_plan(destination: Path, source: dict[str, Any], options: Options) -> StoredPlan | None:
    """The plan of ``destination`` if there is one of the same source and options."""
    path = destination / PLAN_NAME
    if not path.is_file():
        return None
    stored = StoredPlan.load(path)
    return None if _difference(stored, source, options) else stored


def shards_in(destination: Path) -> list[Path]:
    """The tars of a folder that are named as shards."""
    return sorted(destination.glob("*-??????.tar"))


def changed_versions(plan: StoredPlan) -> str | None:
    """What differs between the versions that made a plan and those that run, in words; None if nothing does."""
    before, now = plan.header["versions"], versions()
    changed = [f"{name} {before.get(name)} there, {now[name]} now" for name in now if before.get(name) != now[name]]
    return ", ".join(changed) or None


def _difference(plan: StoredPlan, source: dict[str, Any], options: Options) -> str | None:
    """What a plan was made of that is not so now, in words."""
    there, now = {**plan.header["source"], **plan.header["options"]}, {**source, **options.to_dict()}
    changed = [f"{name} {there.get(name)} there, {now.get(name)} now" for name in {**now, **there} if there.get(name) != now.get(name)]
    for name, size in plan.header["files"].items():
        file = Path(plan.header["root"]) / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            changed.append(f"{file} had {size} bytes then and " + ("is missing now" if found is None else f"has {found} now"))
    return ", ".join(changed) or None


def _clear(destination: Path) -> None:
    """Remove a conversion, the plan first: shards without a plan are refused, so one that is half removed is never taken up again."""
    names = (PLAN_NAME, INDEX_NAME, REJECTED_NAME)
    tars = shards_in(destination)
    for old in [*(destination / name for name in names), *(tar.with_suffix(".json") for tar in tars), *tars]:
        old.unlink(missing_ok=True)
