"""A checkpoint as a folder: every rank writes its slices, any number of ranks reads them.

In the folder are the slices in the files of `torch.distributed.checkpoint` (with its ``.metadata``, for PyTorch's own tools),
``meta.pt`` with everything that is not sliced, and ``index.json``, which is written last: it says where each tensor is and how long each
file must be, so a folder that it does not fit is not complete. Reading never unpickles objects: tensors and ``meta.pt`` are loaded with
``weights_only``, and ``.metadata``, a pickle, is not read at all.
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
"""What follows a folder's name, behind a dot, while it is written and while another takes its place."""
FORMAT = 1

Allocate = Callable[[torch.Size, torch.dtype], torch.Tensor]
"""Makes the tensor that a saved one of this size and type is read into."""


def write_sharded(checkpoint: dict, folder: str | Path) -> None:
    """Write ``checkpoint`` as ``folder``; every rank calls this.

    It is written under a hidden name beside ``folder`` and renamed when all ranks are done, so an older checkpoint of that name stays until
    the new one is complete.

    Args:
        checkpoint: Lightning's dictionary. Sliced tensors (DTensors) are sought in its ``state_dict`` and, by the names of the parameters,
            its ``optimizer_states``; all else is taken from rank 0.
        folder: Where to, a path that all ranks share.

    Raises:
        OSError: A rank could not write; every rank raises, and what was written is removed.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}{WRITING}")
    slices, rest = _split(checkpoint)
    try:
        on_rank_zero(lambda: _empty(temporary))
        metadata = dcp.save(slices, storage_writer=_Writer(temporary, single_file_per_rank=True))
        # Each rank tells the sizes of its own: a network file system may show other ranks' files late.
        parts = gather({path.name: path.stat().st_size for path in temporary.glob(f"__{dist.get_rank()}_*")})
        files = {name: size for part in parts for name, size in part.items()}
        on_rank_zero(lambda: _finish(temporary, folder, metadata, rest, files))
    except (OSError, CheckpointException) as error:
        on_rank_zero(lambda: shutil.rmtree(temporary, ignore_errors=True))  # where the disk is full, what is left of it takes the room
        raise _refusal(error, folder) from error


def read_sharded(folder: str | Path, allocate: Allocate | None = None) -> dict:
    """Read what `write_sharded` wrote, the optimiser states by the names of the parameters.

    Args:
        folder: The folder.
        allocate: Makes the tensors to read into, sliced ones where every rank of a process group calls this; None for whole tensors in
            this process's memory.

    Raises:
        ValueError: The folder is not a complete checkpoint.
    """
    folder = Path(folder)
    problem = what_is_missing(folder)
    if problem is not None:
        raise ValueError(f"{folder} is not a complete checkpoint: {problem}; take an older one")
    alone = allocate is None
    allocate = allocate or (lambda size, dtype: torch.empty(size, dtype=dtype))
    reader = _IndexReader(folder)
    tensors = reader.read_metadata().state_dict_metadata
    slices = {name: allocate(saved.size, saved.properties.dtype) for name, saved in tensors.items()}
    if slices:
        dcp.load(slices, storage_reader=reader, no_dist=alone)
    return _join(slices, read_meta(folder))


def read_meta(folder: Path) -> dict:
    """Everything of a checkpoint but its sliced tensors."""
    return load_plain(folder / META)


def read_index(folder: Path) -> dict:
    """The index of a complete checkpoint."""
    return json.loads((folder / INDEX).read_text())


def what_is_missing(folder: Path) -> str | None:
    """Why ``folder`` is not a complete sharded checkpoint; None if it is one."""
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
            return f"it names a file outside of it, {name}"
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            return f"{name} is missing or not {size} bytes long"
    return None


class _IndexReader(dcp.FileSystemReader):
    """Finds tensors by `INDEX`."""

    def read_metadata(self, *args: object, **kwargs: object) -> Metadata:
        """What PyTorch's reader unpickles from ``.metadata``."""
        index = read_index(Path(self.path))
        tensors, places = {}, {}
        for name, saved in index["tensors"].items():
            dtype, chunks = getattr(torch, saved["dtype"]), []
            if not isinstance(dtype, torch.dtype):
                raise ValueError(f"{self.path}: {name} is said to be of type {saved['dtype']!r}, which is none")
            for number, (offsets, sizes, file, offset, length) in enumerate(saved["chunks"]):
                if file not in index["files"]:
                    raise ValueError(f"{self.path}: {name} is said to be in {file}, which is not among its files")
                offsets = torch.Size(offsets)
                chunks.append(ChunkStorageMetadata(offsets, torch.Size(sizes)))
                places[MetadataIndex(name, offsets, number)] = _StorageInfo(file, offset, length)
            tensors[name] = TensorStorageMetadata(TensorProperties(dtype), torch.Size(saved["size"]), chunks)
        return Metadata(tensors, storage_data=places)


class _Writer(dcp.FileSystemWriter):
    """Raises the system's refusal to write as it is."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """What PyTorch's does; its archive's writer complains of what follows from a refusal."""
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def _refusal(error: OSError | CheckpointException, folder: Path) -> BaseException:
    """An `OSError` of the ranks that could not write; ``error`` itself if something else failed."""
    if isinstance(error, OSError):
        return error
    failures = {rank: failure for rank, (failure, _) in error.failures.items()}
    if not all(isinstance(failure, OSError) for failure in failures.values()):
        return error
    first = next(iter(failures.values()))
    return OSError(first.errno, f"{first.strerror} (on rank {', '.join(str(rank) for rank in sorted(failures))})", str(folder))


def _index(metadata: Metadata, files: dict[str, int], step: int | None) -> dict:
    tensors = {}
    for name, saved in metadata.state_dict_metadata.items():
        chunks = []
        for chunk in saved.chunks:
            place = metadata.storage_data[MetadataIndex(name, chunk.offsets)]
            chunks.append([list(chunk.offsets), list(chunk.sizes), place.relative_path, place.offset, place.length])
        tensors[name] = {"dtype": str(saved.properties.dtype).removeprefix("torch."), "size": list(saved.size), "chunks": chunks}
    return {"format": FORMAT, "ranks": dist.get_world_size(), "global_step": step, "files": files, "tensors": tensors}


def _split(checkpoint: dict) -> tuple[dict[str, torch.Tensor], dict]:
    """Sliced tensors under flat names, and a copy of ``checkpoint`` without them."""
    slices = {f"model/{name}": tensor for name, tensor in checkpoint["state_dict"].items() if isinstance(tensor, DTensor)}
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
    """What a run that was killed left there goes."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _finish(temporary: Path, folder: Path, metadata: Metadata, rest: dict, files: dict[str, int]) -> None:
    """Write the rest, then the index, and give the folder its name."""
    save_plain(rest, temporary / META)
    index = _index(metadata, files | {META: (temporary / META).stat().st_size}, rest.get("global_step"))
    with replace_when_whole(temporary / INDEX) as path:
        path.write_text(json.dumps(index) + "\n")
    replaced = folder.with_name(f".{folder.name}{REPLACED}")
    if replaced.exists():
        shutil.rmtree(replaced)
    if folder.is_dir() and not folder.is_symlink():
        folder.rename(replaced)  # folders cannot be exchanged in one step; if it ends here, the new one is found under its hidden name
    elif os.path.lexists(folder):
        folder.unlink()
    temporary.rename(folder)
    sync_folder(folder.parent)
    if replaced.exists():
        shutil.rmtree(replaced)
