"""Sharded checkpoint folders: every rank writes its slices, and any number of ranks can read them.

The folder holds the slices in files of `torch.distributed.checkpoint` (with its ``.metadata``, for PyTorch's own tools), ``meta.pt`` with
everything that is not sharded, and ``index.json``, written last. The index lists the place of each tensor and the length of each file; a
folder that does not match it is incomplete. Reading never unpickles objects: tensors and ``meta.pt`` are loaded with ``weights_only``, and
``.metadata``, a pickle, is not read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from mimdit.core.collectives import gather, on_rank_zero
from mimdit.core.files import replace_when_whole, sync_folder
from mimdit.distributed.torch_files import load_plain, save_plain

INDEX, META = "index.json", "meta.pt"
WRITING, REPLACED = ".writing", ".replaced"
"""Suffixes of a folder, hidden by a leading dot, while it is written and while it is replaced."""
FORMAT = 1

Allocate = Callable[[torch.Size, torch.dtype], torch.Tensor]
"""Function that allocates the tensor into which a saved one of this size and type is read."""


def write_sharded(checkpoint: dict, folder: str | Path) -> None:
    """Write ``checkpoint`` as ``folder``; a collective.

    The folder is written under a hidden name and renamed when all ranks are done, so an older checkpoint of that name stays until the new
    one is complete.

    Args:
        checkpoint: Lightning's dictionary. Sharded tensors (DTensors) are taken from its ``state_dict`` and its ``optimizer_states``, which
            are keyed by parameter name; everything else is taken from rank 0.
        folder: Target path, shared by all ranks.

    Raises:
        OSError: A rank could not write. Every rank raises, and the incomplete folder is removed.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}{WRITING}")
    slices, rest = _split(checkpoint)
    try:
        on_rank_zero(lambda: _empty(temporary))
        metadata = dcp.save(slices, storage_writer=_Writer(temporary, single_file_per_rank=True))
        # Each rank reports the sizes of its own files: a network file system may show other ranks' files late.
        parts = gather({path.name: path.stat().st_size for path in temporary.glob(f"__{dist.get_rank()}_*")})
        files = {name: size for part in parts for name, size in part.items()}
        on_rank_zero(lambda: _finish(temporary, folder, metadata, rest, files))
    except (OSError, CheckpointException) as error:
        on_rank_zero(lambda: shutil.rmtree(temporary, ignore_errors=True))  # on a full disk the rest would take up space
        raise _refusal(error, folder) from error


def read_sharded(folder: str | Path, allocate: Allocate | None = None) -> dict:
    """Read a folder of `write_sharded`; optimizer states are keyed by parameter name.

    Args:
        folder: The folder.
        allocate: Function that allocates the tensors to read into. If it returns sharded tensors, every rank must call this. If None, whole
            tensors are read into this process's memory.

    Raises:
        ValueError: The folder is not a complete checkpoint.
    """
    folder = Path(folder)
    problem = what_is_missing(folder)
    if problem is not None:
        raise ValueError(f"{folder} is not a complete checkpoint: {problem}; use an older one")
    single_process = allocate is None
    allocate = allocate or (lambda size, dtype: torch.empty(size, dtype=dtype))
    reader = _IndexReader(folder)
    tensors = _tensors_of(reader.read_metadata())
    slices = {name: allocate(saved.size, saved.properties.dtype) for name, saved in tensors.items()}
    if slices:
        dcp.load(slices, storage_reader=reader, no_dist=single_process)
    return _join(slices, read_meta(folder))


def read_meta(folder: Path) -> dict:
    """Return everything in a checkpoint but its sharded tensors."""
    return load_plain(folder / META)


def read_index(folder: Path) -> dict:
    """Return the index of a complete checkpoint."""
    return json.loads((folder / INDEX).read_text())


def what_is_missing(folder: Path) -> str | None:
    """Return why ``folder`` is not a complete sharded checkpoint; None if it is complete."""
    if not (folder / INDEX).is_file():
        return f"it has no {INDEX}, which is written last"
    try:
        index = read_index(folder)
        files, version = index["files"], index["format"]
    except (ValueError, KeyError, TypeError):
        return f"its {INDEX} cannot be read"
    if version != FORMAT:
        return f"its format is {version}, and this version reads {FORMAT}"
    for name, size in files.items():
        if os.path.basename(name) != name:
            return f"it lists a file outside the folder, {name}"
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            return f"{name} is missing or not {size} bytes long"
    return None


class _IndexReader(dcp.FileSystemReader):
    """Reader that locates tensors by `INDEX`."""

    def read_metadata(self, *args: object, **kwargs: object) -> Metadata:
        """Return the metadata that PyTorch's reader unpickles from ``.metadata``."""
        index = read_index(Path(self.path))
        tensors, places = {}, {}
        for name, saved in index["tensors"].items():
            dtype, chunks = getattr(torch, saved["dtype"]), []
            if not isinstance(dtype, torch.dtype):
                raise ValueError(f"{self.path}: the type of {name}, {saved['dtype']!r}, does not exist; use an older checkpoint")
            for number, (offsets, sizes, file, offset, length) in enumerate(saved["chunks"]):
                if file not in index["files"]:
                    raise ValueError(f"{self.path}: the file of {name}, {file}, is not in the index; use an older checkpoint")
                offsets = torch.Size(offsets)
                chunks.append(ChunkStorageMetadata(offsets, torch.Size(sizes)))
                places[MetadataIndex(name, offsets, number)] = _StorageInfo(file, offset, length)
            tensors[name] = TensorStorageMetadata(TensorProperties(dtype), torch.Size(saved["size"]), chunks)
        return Metadata(tensors, storage_data=places)


class _Writer(dcp.FileSystemWriter):
    """Writer that re-raises the operating system's own error."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write as PyTorch does, but raise the error that its archive writer hides behind a later one."""
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def _refusal(error: OSError | CheckpointException, folder: Path) -> BaseException:
    """Return an `OSError` that names the ranks that could not write, or ``error`` itself if something else failed."""
    if isinstance(error, OSError):
        return error
    failures = {rank: failure for rank, (failure, _) in error.failures.items() if isinstance(failure, OSError)}
    if len(failures) < len(error.failures):
        return error
    first = next(iter(failures.values()))
    return OSError(first.errno, f"{first.strerror} (on rank {', '.join(str(rank) for rank in sorted(failures))})", str(folder))


def _tensors_of(metadata: Metadata) -> dict[str, TensorStorageMetadata]:
    """Return the metadata of the tensors by flat name; a sharded folder holds nothing else."""
    tensors: dict[str, TensorStorageMetadata] = {}
    for name, saved in metadata.state_dict_metadata.items():
        assert isinstance(saved, TensorStorageMetadata), name
        tensors[name] = saved
    return tensors


def _index(metadata: Metadata, files: dict[str, int], step: int | None) -> dict:
    tensors = {}
    for name, saved in _tensors_of(metadata).items():
        chunks = []
        for chunk in saved.chunks:
            place = metadata.storage_data[MetadataIndex(name, chunk.offsets)]
            chunks.append([list(chunk.offsets), list(chunk.sizes), place.relative_path, place.offset, place.length])
        tensors[name] = {"dtype": str(saved.properties.dtype).removeprefix("torch."), "size": list(saved.size), "chunks": chunks}
    return {"format": FORMAT, "ranks": dist.get_world_size(), "global_step": step, "files": files, "tensors": tensors}


def _split(checkpoint: dict) -> tuple[dict[str, torch.Tensor], dict]:
    """Return sharded tensors under flat names, and a copy of ``checkpoint`` without them."""
    slices: dict[str, torch.Tensor] = {
        f"model/{name}": tensor for name, tensor in checkpoint["state_dict"].items() if isinstance(tensor, DTensor)
    }
    whole = {name: tensor for name, tensor in checkpoint["state_dict"].items() if not isinstance(tensor, DTensor)}
    rest = checkpoint | {"state_dict": whole}
    if "optimizer_states" in checkpoint:
        rest["optimizer_states"] = []
        for number, state in enumerate(checkpoint["optimizer_states"]):
            kept = {}
            for name, values in state["state"].items():
                sliced = {key: value for key, value in values.items() if isinstance(value, DTensor)}
                slices |= {f"optimizer/{number}/{name}/{key}": value for key, value in sliced.items()}
                kept[name] = {key: value for key, value in values.items() if key not in sliced}
            rest["optimizer_states"].append(state | {"state": kept})
    return slices, rest


def _join(slices: dict[str, torch.Tensor], rest: dict) -> dict:
    for flat, tensor in slices.items():
        part, name = flat.split("/", 1)
        if part == "model":
            rest["state_dict"][name] = tensor
        else:
            number, name = name.split("/", 1)
            name, key = name.rsplit("/", 1)
            rest["optimizer_states"][int(number)]["state"][name][key] = tensor
    return rest


def _empty(folder: Path) -> None:
    """Create an empty folder; remove what a killed run left there."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _finish(temporary: Path, folder: Path, metadata: Metadata, rest: dict, files: dict[str, int]) -> None:
    """Write the rest, then the index, and rename the folder."""
    save_plain(rest, temporary / META)
    index = _index(metadata, files | {META: (temporary / META).stat().st_size}, rest.get("global_step"))
    with replace_when_whole(temporary / INDEX) as path:
        path.write_text(json.dumps(index) + "\n")
    replaced = folder.with_name(f".{folder.name}{REPLACED}")
    if replaced.exists():
        shutil.rmtree(replaced)
    if folder.is_dir() and not folder.is_symlink():
        # Folders cannot be exchanged in one step; if the run dies in between, the new one is found by its hidden name.
        folder.rename(replaced)
    elif os.path.lexists(folder):
        folder.unlink()
    temporary.rename(folder)
    sync_folder(folder.parent)
    if replaced.exists():
        shutil.rmtree(replaced)
