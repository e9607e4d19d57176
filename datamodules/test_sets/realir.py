"""RealIR-Bench (RealRestorer, arXiv 2603.25502): real photographs of nine degradations, without truths."""

import importlib.util
import json
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from datamodules.decoding import decode_image
from datamodules.sources.layouts import visible_folders
from datamodules.test_sets.base import Contents, Entry, Images, TestSet
from datamodules.test_sets.files import degradations_of, images_by_stem, load_pair

TABLES = (".parquet", ".arrow")

PUBLISHED = 464
"""Images of the published set."""


class RealIRBench(TestSet):
    """RealIR-Bench; its nine degradations are the groups.

    Layouts: one or more folders of images for each degradation, or tables, ``*.parquet`` or ``*.arrow`` anywhere below the root, as the
    Hugging Face hub has them (they need the extra ``tables``), with a column of images and one that names their degradation. No-reference
    metrics score it. Its own scores, LPIPS between input and output and a language model's judgment, are not computed here: keep the
    outputs with ``images: true`` of `callbacks.Scores`.

    The columns of the published tables are not known here: they are found by what they hold.

    Args:
        root: The folder.
        image_column: Column of images, each ``{bytes, path}``; null for the only one.
        degradation_column: Column of the degradations' names; null for the only column of texts that all name one.
        **options: As in `TestSet`.
    """

    def __init__(self, root: str, *, image_column: str | None = None, degradation_column: str | None = None, **options) -> None:
        super().__init__(root, **options)
        self.image_column, self.degradation_column = image_column, degradation_column

    def find(self) -> Contents:
        """List the images of tables, or else of folders.

        Raises:
            ValueError: There are neither, the columns are ambiguous, or pyarrow, which reads tables, is not installed.
        """
        tables = sorted(path for path in self.root.rglob("*") if path.suffix in TABLES)
        contents = Contents()
        for path in tables:
            contents.entries += self._rows_of(path, len(contents.entries))
        if tables:
            return contents
        named = {folder: names for folder in visible_folders(self.root) if (names := degradations_of(folder.name))}
        sharing = Counter(names[0] for names in named.values())
        for folder, names in named.items():
            prefix = f"{folder.name}/" if sharing[names[0]] > 1 else ""
            for stem, paths in images_by_stem(folder).items():
                keys = [stem] if len(paths) == 1 else [stem + path.suffix for path in paths]
                contents.entries += [Entry(names[0], prefix + key, names, partial(load_pair, path, None)) for key, path in zip(keys, paths)]
        if not contents.entries:
            raise ValueError(
                f"{self.root} holds no table ({', '.join(TABLES)}) and no folder of a degradation such as blur/ or rain/; "
                "give the folder above them"
            )
        return contents

    def protocol(self) -> dict[str, Any]:
        """Return the settings, and the number of images where it differs from the published set's."""
        count = len(self.contents.entries)
        whole = self.groups is None and self.keys is None
        return super().protocol() | ({"differs_from_published": f"{count} images, not {PUBLISHED}"} if whole and count != PUBLISHED else {})

    def _rows_of(self, path: Path, first: int) -> list[Entry]:
        """Return the images of a table; rows without a name are numbered from ``first``.

        Raises:
            ValueError: The columns are ambiguous, or hold something else.
        """
        table = _read_table(path)
        image = self.image_column or _only(path, "image_column", [field.name for field in table.schema if _holds_images(field)], table)
        texts = {name: values for name in table.schema.names if (values := _texts(table, name)) is not None}
        naming = [name for name, values in texts.items() if all(value is not None and degradations_of(value) for value in values)]
        column = self.degradation_column or _only(path, "degradation_column", naming, table)
        if missing := {image, column} - {*table.schema.names}:
            raise ValueError(f"{path} has no column {', '.join(sorted(missing))}; it has {', '.join(table.schema.names)}")
        if not _holds_images(table.schema.field(image)):
            raise ValueError(f"{path}: image_column={image} is {table.schema.field(image).type}; name one of images, {{bytes, path}}")
        entries, names = [], table[image].combine_chunks().field("path").to_pylist()
        for row, (value, name) in enumerate(zip(texts.get(column, [None] * len(names)), names)):
            if not (degradations := degradations_of(value or "")):
                raise ValueError(f"{path}, row {row}: degradation_column={column} names no degradation; name one of texts such as rain")
            key = f"{first + row:04d}" if name is None else f"{first + row:04d}-{Path(name).stem}"
            entries.append(Entry(degradations[0], key, degradations, partial(_load_row, path, image, row)))
        return entries


def _holds_images(field) -> bool:
    """Return true for a column of structs ``{bytes, path}``, in which the Hugging Face hub keeps images."""
    return str(field.type).startswith("struct<") and {"bytes", "path"} <= {child.name for child in field.type}


def _texts(table, name: str) -> list[str | None] | None:
    """Return the values of a column of texts, or of labels whose names the table holds as the Hugging Face hub writes them; else None."""
    import pyarrow

    kind = table.schema.field(name).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return table[name].to_pylist()
    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    labels = features.get(name, {}).get("names") if isinstance(features.get(name), dict) else None
    if labels is None:
        return None
    return [None if value is None or not 0 <= value < len(labels) else labels[value] for value in table[name].to_pylist()]


def _only(path: Path, option: str, candidates: list[str], table) -> str:
    if len(candidates) != 1:
        found = ", ".join(candidates) or "none"
        raise ValueError(
            f"{path}: cannot choose a column for {option} (candidates: {found}); set {option} to one of {', '.join(table.schema.names)}"
        )
    return candidates[0]


@lru_cache(maxsize=2)
def _read_table(path: Path):
    """Return a table, and keep it: every row is read.

    Raises:
        ValueError: The file cannot be read, or pyarrow is not installed.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{path} is a table and needs pyarrow, which is not installed; pip install 'mimdit[tables]'")
    import pyarrow
    from pyarrow import ipc, parquet

    try:
        if path.suffix == ".parquet":
            return parquet.read_table(path)
        with pyarrow.memory_map(str(path)) as source:
            try:
                return ipc.open_stream(source).read_all()
            except pyarrow.ArrowInvalid:
                return ipc.open_file(source).read_all()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table ({error}); download it again") from error


def _load_row(path: Path, column: str, row: int) -> Images:
    return decode_image(_read_table(path)[column][row]["bytes"].as_py(), f"row {row} of {path}"), None
