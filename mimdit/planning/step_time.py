"""Time of a training step as a range: what the GPU, its host and the links need at best and at worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mimdit.planning.assumptions import Assumption
from mimdit.planning.hardware import Gpu

Range = tuple[float, float]
"""Best and worst."""


@dataclass(frozen=True)
class Links:
    """Links between the GPUs of a run.

    Attributes:
        gpus: GPUs of a node.
        nodes: Nodes.
        nvlink: Bytes/s out of a GPU within its node.
        network: Bytes/s out of a GPU to other nodes.
    """

    gpus: int
    nodes: int
    nvlink: float
    network: float

    @property
    def ranks(self) -> int:
        """GPUs of the run."""
        return self.gpus * self.nodes


def device_seconds(
    kernels: Sequence[Mapping[str, Any]], gpu: Gpu, assumed: Mapping[str, Assumption], fused: bool, calls: str = "calls"
) -> dict[str, Range]:
    """Return the seconds of the GPU in a step: ``products``, ``traffic``, and ``device``, in which a kernel takes the longer of both.

    Args:
        kernels: Rows of `mimdit.planning.fake_step.Counted.kernels`.
        gpu: The GPU.
        assumed: Assumptions.
        fused: If true, blocks are compiled.
        calls: ``calls`` for the whole step, ``late_calls`` for the part beside which gradients are sent.
    """
    seconds: dict[str, list[float]] = {"products": [], "traffic": [], "device": []}
    for end in ("best", "worst"):
        reached, share = getattr(assumed["products"], end), getattr(assumed["traffic"], end)
        left = getattr(assumed["fused_traffic"], end) if fused else 1.0
        products = [row[calls] * row["flops"] / (gpu.speed(row["precision"]) * reached) for row in kernels]
        traffic = [row[calls] * row["bytes"] / (gpu.bandwidth * share) * (1.0 if row["flops"] else left) for row in kernels]
        seconds["products"].append(sum(products))
        seconds["traffic"].append(sum(traffic))
        seconds["device"].append(sum(map(max, products, traffic)))
    return {name: (best, worst) for name, (best, worst) in seconds.items()}


def host_seconds(kernels: Sequence[Mapping[str, Any]], assumed: Mapping[str, Assumption], fused: bool, calls: str = "calls") -> Range:
    """Return the seconds that the host needs to launch a step's kernels; ``calls`` as for `device_seconds`."""
    launches = sum(row[calls] for row in kernels)
    left = assumed["fused_launches"] if fused else Assumption(1.0, 1.0, "", "")
    launch = assumed["launch"]
    return launches * launch.best * left.best * 1e-6, launches * launch.worst * left.worst * 1e-6


def sent_bytes(collectives: Sequence[Mapping[str, Any]]) -> float:
    """Return the bytes that rings send out of a GPU in a step, over all its links; padding counts."""
    return sum(_whole(row) * (row["ranks"] - 1) / row["ranks"] for row in collectives)


def network_bytes(collectives: Sequence[Mapping[str, Any]], links: Links) -> float:
    """Return the bytes that leave a GPU's node through its network port in a step: nodes exchange a share of each tensor per GPU."""
    return sum(_outside(row, links) for row in collectives)


def link_seconds(collectives: Sequence[Mapping[str, Any]], links: Links, assumed: Mapping[str, Assumption]) -> Range:
    """Return the seconds of a step's collectives by themselves: first within nodes, then between them (benchmarks/scaling.md)."""
    inside = sum(_whole(row) * (_of_node(row, links) - 1) / _of_node(row, links) for row in collectives)
    outside, calls = network_bytes(collectives, links), sum(row["calls"] for row in collectives)
    seconds = []
    for end in ("best", "worst"):
        reached, latency = getattr(assumed["links"], end), getattr(assumed["latency"], end) * 1e-3
        seconds.append((inside / links.nvlink + outside / links.network) / reached + calls * latency)
    return seconds[0], seconds[1]


def _whole(row: Mapping[str, Any]) -> float:
    """Return the bytes of whole tensors in a row of collectives, an all-reduce's twice."""
    return row["calls"] * row["size"] * (2 if row["kind"] == "all-reduce" else 1)


def _of_node(row: Mapping[str, Any], links: Links) -> int:
    """Return the ranks of a collective's group that share a node."""
    return max(1, min(row["ranks"], links.gpus // row["stride"]))


def _outside(row: Mapping[str, Any], links: Links) -> float:
    together = _of_node(row, links)
    nodes = row["ranks"] / together
    return (nodes - 1) / nodes * _whole(row) / together


def step_seconds(compute: Range, window: Range, link: Range, data: Range, assumed: Mapping[str, Assumption]) -> Range:
    """Return the seconds of a step: computation, the communication that is not hidden beside it, and at least those of the data.

    Args:
        compute: Seconds of computation.
        window: Those of them beside which the links can work.
        link: Seconds of the links.
        data: Seconds in which the data of a step is made.
        assumed: Assumptions.
    """
    shares = (assumed["hidden"].best, assumed["hidden"].worst)
    best, worst = (max(compute[end] + max(0.0, link[end] - share * window[end]), data[end]) for end, share in enumerate(shares))
    return best, worst
