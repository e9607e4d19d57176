"""Listing of image pairs: FoundIR as it is released or unpacked, a list, or any two folders."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from datamodules.degradations.groups import atoms_of_group
from datamodules.sources.layouts import NO_GROUP, Archives, choose_groups, images_below, is_group, read_list, visible_folders
from datamodules.sources.pairing import SIDES, FoundImage, Listing, Reject, Side, SourcePair, pair_by_stem

__all__ = ["Listing", "Reject", "SourcePair", "list_foundir", "list_meta", "list_pair_folders", "list_pairs"]

_Folders = Mapping[str, list[tuple[Side, Path]]]
"""Folders of ground truths and of degraded images, by group."""


def list_pairs(root: Path, *, groups: Collection[str] | None = None) -> Listing:
    """List the pairs of a source in one of FoundIR's layouts, which is detected.

    Args:
        root: A folder of archives ``<group>.zip`` with their volumes, of ``<group>/{GT,LQ}``, or of ``{GT,LQ}/<group>``; or a text file of
            "GT, LQ" lines, relative to its own folder.
        groups: Groups to list; None for all.

    Raises:
        ValueError: None of these layouts is found, or more than one; a group is missing; an archive lacks a volume or is damaged; or there
            are no pairs. The message names what was found.
    """
    root = Path(root)
    if root.suffix.lower() == ".txt" and root.is_file():
        return list_meta(root.parent, root, groups=groups)
    if not root.is_dir():
        raise ValueError(f"{root} is neither a folder nor a .txt list.")
    archives = Archives(root)
    skipped = archives.skipped
    group_folders, side_folders = _group_folders(root, skipped), _side_folders(root, skipped)
    candidates = {"archives": archives.groups, "group folders": group_folders, "side folders": side_folders}
    layouts = [layout for layout, found in candidates.items() if found]
    if len(layouts) != 1:
        raise ValueError(_no_layout(root, candidates, skipped))
    (layout,) = layouts
    chosen = choose_groups(groups, candidates[layout], root)
    files: dict[str, int] = {}
    if layout == "archives":
        return _assemble(root, layout, chosen, lambda group: archives.read_directory(group, files), files, skipped)
    folders = group_folders or side_folders
    return _assemble(root, layout, chosen, lambda group: _images_in(folders[group], root), files, skipped)


list_foundir = list_pairs
"""Earlier name of `list_pairs`."""


def list_meta(root: Path, meta: Path, *, groups: Collection[str] | None = None) -> Listing:
    """List the pairs in a text file of "GT, LQ" lines with paths below ``root``, such as ``08Haze/GT/1.png, 08Haze/LQ/1.jpg``.

    The group is the first folder of a path that is named as one; the stem is the ground truth's path below its group and ``GT/``.

    Raises:
        ValueError: A line has another form or names no group, or none of the files exists; the message names the line.
    """
    root, meta = Path(root), Path(meta)
    results = list(read_list(root, meta))
    present = {result.group for result in results}
    chosen = set(choose_groups(groups, present, meta))
    files = {Path(os.path.relpath(meta, root)).as_posix(): meta.stat().st_size}
    return _listing(root, "list", [result for result in results if result.group in chosen], files, [])


def list_pair_folders(lq: Path, gt: Path, *, group: str) -> Listing:
    """List the images of two folders and their sub-folders that have the same path apart from the suffix.

    Raises:
        ValueError: A folder is missing, or one is inside the other; the group's name has an unknown part; or there are no pairs.
    """
    atoms_of_group(group)
    folders = {"LQ": Path(os.path.abspath(lq)), "GT": Path(os.path.abspath(gt))}
    for folder in folders.values():
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder.")
    inner, outer = folders["LQ"].resolve(), folders["GT"].resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise ValueError(f"The folders {lq} and {gt} must be separate: images in both would be ambiguous.")
    root = Path(os.path.commonpath(folders.values()))
    sides: list[tuple[Side, Path]] = [(side, folders[side]) for side in SIDES]
    return _assemble(root, "pair folders", [group], lambda _: _images_in(sides, root), {}, [])


def _assemble(
    root: Path,
    layout: str,
    groups: Iterable[str],
    images_of: Callable[[str], Iterable[FoundImage]],
    files: dict[str, int],
    skipped: list[str],
) -> Listing:
    """Pair the images group by group."""
    return _listing(root, layout, [result for group in groups for result in pair_by_stem(group, images_of(group))], files, skipped)


def _listing(root: Path, layout: str, results: list[SourcePair | Reject], files: dict[str, int], skipped: list[str]) -> Listing:
    """Separate pairs from rejects."""
    pairs = sorted((result for result in results if isinstance(result, SourcePair)), key=lambda pair: (pair.group, pair.stem))
    rejects = sorted(result for result in results if isinstance(result, Reject))
    if not pairs:
        examples = "".join(f"\n- {reject.group}/{reject.name}: {reject.reason}" for reject in rejects[:5])
        raise ValueError(f"{root} holds no pair of a degraded image (LQ) and its ground truth (GT) of the same stem.{examples}")
    return Listing(root, layout, tuple(pairs), tuple(rejects), files, tuple(sorted(skipped)))


def _images_in(folders: Iterable[tuple[Side, Path]], root: Path) -> Iterable[FoundImage]:
    for side, folder in folders:
        yield from images_below(folder, root, side)


def _group_folders(root: Path, skipped: list[str]) -> _Folders:
    """Return ``<group>/GT`` and ``<group>/LQ`` by group, also if only one of the two exists."""
    folders = {folder.name: sides for folder in visible_folders(root) if (sides := _sides_in(folder))}
    return _named_as_groups(folders, skipped)


def _side_folders(root: Path, skipped: list[str]) -> _Folders:
    """Return ``GT/<group>`` and ``LQ/<group>`` by group."""
    folders: dict[str, list[tuple[Side, Path]]] = {}
    for side, side_folder in _sides_in(root):
        for folder in visible_folders(side_folder):
            folders.setdefault(folder.name, []).append((side, folder))
    return _named_as_groups(folders, skipped)


def _named_as_groups(folders: _Folders, skipped: list[str]) -> _Folders:
    skipped += [f"{name} ({NO_GROUP})" for name in folders if not is_group(name)]
    return {name: sides for name, sides in folders.items() if is_group(name)}


def _sides_in(folder: Path) -> list[tuple[Side, Path]]:
    return [(side, path) for path in visible_folders(folder) for side in SIDES if path.name.upper() == side]


def _no_layout(root: Path, candidates: Mapping[str, Collection[str]], skipped: list[str]) -> str:
    found = "; ".join(f"{layout}: {', '.join(sorted(groups))}" for layout, groups in candidates.items() if groups)
    if found:
        return f"{root} holds more than one layout ({found}), which would give every pair twice. Move all but one to another folder."
    aside = f" Skipped: {', '.join(skipped)}." if skipped else ""
    return (
        f"{root} holds no data set in a layout of FoundIR. Looked for archives <group>.zip with their volumes <group>.z01, …; for folders "
        f"<group>/GT and <group>/LQ; and for folders GT/<group> and LQ/<group>; a group is named like 08Haze or 09Lowlight_Haze.{aside} "
        "Give the folder that holds these, or the .txt file of a list; for two folders of pairs use `mimdit shards pairs`."
    )
