"""Pruning: a conditioner without its least used sub-experts."""

from __future__ import annotations

from typing import Any

import torch

from mimdit.conditioner.int8 import is_quantized
from mimdit.conditioner.moe_conditioner import MoEConditioner, default_hidden


@torch.no_grad()
def prune(conditioner: MoEConditioner, load_MGE: torch.Tensor, keep: int) -> MoEConditioner:
    """Return a new conditioner with the ``keep`` most used sub-experts of each block and group. Not in the paper.

    Results change: images that chose a removed sub-expert use the best remaining one.

    Args:
        conditioner: The conditioner to prune.
        load_MGE: Fraction of each gate's choices that a sub-expert gets (`mimdit.routing.utilization.Utilization`).
        keep: Sub-experts to keep per group, top_k..E.

    Raises:
        ValueError: ``keep`` is not in top_k..E, the groups have no sub-experts to choose from (``intra: none``), or they are int8.
    """
    if is_quantized([*conditioner.state_dict()]):
        raise ValueError("int8 experts cannot be pruned; prune the conditioner they were quantized from, then quantize the result")
    config = conditioner.config
    least = config["top_k"] if config["intra"] == "sparse" else 1
    if config["intra"] == "none" or not least <= keep <= config["num_experts"]:
        raise ValueError(
            f"{keep} sub-experts a group cannot be kept of num_experts={config['num_experts']} with intra={config['intra']} and "
            f"top_k={config['top_k']}; choose {least}..{config['num_experts']}"
        )
    smaller: dict[str, Any] = config | {"num_experts": keep}
    if config["hidden"] is None:
        smaller["hidden"] = default_hidden(config["dim"], config["moe_dim"], config["top_k"])
    pruned, state = MoEConditioner(**smaller), conditioner.state_dict()
    for number, (block, loads_GE) in enumerate(zip(conditioner.blocks, load_MGE)):
        for index, (group, load_E) in enumerate(zip(block.inter_moe.groups, loads_GE)):
            kept = load_E.topk(keep).indices.sort().values
            place = f"blocks.{number}.inter_moe.groups.{index}"
            stacked = [f"{place}.experts.{name}" for name, _ in group.experts.named_parameters()]
            for name in (*stacked, *(f"{place}.router.{name}" for name in group.router.per_choice)):
                state[name] = state[name][kept.to(state[name].device)]
    pruned.load_state_dict(state)
    return pruned.eval()
