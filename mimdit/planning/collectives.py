"""Counter of collectives: their kind, bytes and group, padding included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WHOLE = {
    "c10d::_allgather_base_": ("all-gather", 0),
    "c10d::allgather_": ("all-gather", 0),
    "c10d::allgather_into_tensor_coalesced_": ("all-gather", 0),
    "c10d::_reduce_scatter_base_": ("reduce-scatter", 1),
    "c10d::reduce_scatter_": ("reduce-scatter", 1),
    "c10d::reduce_scatter_tensor_coalesced_": ("reduce-scatter", 1),
    "c10d::allreduce_": ("all-reduce", 0),
    "c10d::broadcast_": ("broadcast", 0),
    "_c10d_functional::all_gather_into_tensor": ("all-gather", 0),  # of this rank's part: times the ranks
    "_c10d_functional::reduce_scatter_tensor": ("reduce-scatter", 0),
    "_c10d_functional::all_reduce": ("all-reduce", 0),
    "_c10d_functional::all_reduce_": ("all-reduce", 0),
    "_c10d_functional::broadcast": ("broadcast", 0),
    "_c10d_functional::broadcast_": ("broadcast", 0),
}
"""Kind of each operator that communicates, and the place of the argument that holds the whole tensor."""


@dataclass(frozen=True)
class Collective:
    """A collective of one group of ranks.

    Attributes:
        kind: ``all-gather``, ``reduce-scatter``, ``all-reduce`` or ``broadcast``.
        dtype: Type of the elements, such as ``float32``.
        size: Bytes of the whole tensor, padding included: what all ranks together hold of it after a gather or before a scatter.
        ranks: Ranks in the group.
        stride: Distance of neighbors in the group: 1 where its ranks are consecutive, else the ranks of a copy of sharded weights.
    """

    kind: str
    dtype: str
    size: int
    ranks: int
    stride: int = 1

    @property
    def sent(self) -> float:
        """Bytes that a ring sends out of each rank: (n-1)/n of the whole, for an all-reduce twice that."""
        return (2 if self.kind == "all-reduce" else 1) * (self.ranks - 1) / self.ranks * self.size


class CollectiveCounter(TorchDispatchMode):
    """Dispatch mode that counts collectives in ``found``, on any backend, the ``fake`` one included."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Collective] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operator and count it if it communicates."""
        name = func._schema.name
        if name in _WHOLE:
            self.found[_collective(name, args)] += 1
        return func(*args, **kwargs or {})


def _collective(name: str, args: Sequence[Any]) -> Collective:
    kind, place = _WHOLE[name]
    whole = [leaf for leaf in tree_leaves(args[place]) if isinstance(leaf, torch.Tensor)]
    size, ranks = sum(tensor.nbytes for tensor in whole), _ranks(name, args)
    if name == "_c10d_functional::all_gather_into_tensor":
        size *= len(ranks)
    stride = ranks[1] - ranks[0] if len(ranks) > 1 else 1
    return Collective(kind, str(whole[0].dtype).removeprefix("torch."), size, len(ranks), stride)


def _ranks(name: str, args: Sequence[Any]) -> list[int]:
    """Return the ranks of the process group among an operator's arguments: an object, or in the functional ones a name, the last."""
    if name.startswith("_c10d_functional"):
        return dist.get_process_group_ranks(dist.distributed_c10d._resolve_process_group(args[-1]))
    group = next(argument for argument in args if isinstance(argument, torch.ScriptObject) and "ProcessGroup" in str(argument._type()))
    return dist.get_process_group_ranks(dist.distributed_c10d._resolve_process_group(dist.ProcessGroup.unbox(group).group_name))


def as_rows(found: Counter[Collective]) -> list[dict[str, Any]]:
    """Return the counted collectives as rows for JSON, each with its number of ``calls``."""
    return [asdict(collective) | {"calls": calls} for collective, calls in found.items()]
