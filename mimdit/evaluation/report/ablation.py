"""The ablation table: what each run's conditioner is, by its config, and what that did to its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mimdit.evaluation.report.scores import GROUP_MEAN, IMAGE_MEAN, Scores

_CONFIG_NAME = "config.yaml"
_WEIGHTS = ("balance", "z", "importance", "specialization")


@dataclass(frozen=True)
class Variant:
    """What is ablated, as a run's saved config has it."""

    inter: str
    intra: str
    groups: tuple[str, ...]
    experts: int
    top_k: int
    balanced: bool

    @property
    def size(self) -> tuple[int, int]:
        """How many sub-experts a group has, and how many are chosen."""
        return self.experts, self.top_k

    def order(self, usual: tuple[int, int]) -> tuple[int, ...]:
        """The paper's order: no Intra-MoE, groups all of one kind, dense-dense, sparse-sparse, sparse-dense, dense-sparse; ours last.

        Ours are losses off, groups without a gate, and another `size` than the ``usual``.
        """
        kinds = ["spatial", "channel", "swin", "se"]
        pairs = [("dense", "dense"), ("sparse", "sparse"), ("sparse", "dense"), ("dense", "sparse")]
        ours = 0 if self.balanced and (self.inter, self.intra) in [*pairs, ("dense", "none")] and self.size == usual else 1
        if self.intra == "none":
            place = (0, 0)
        elif len(set(self.groups)) == 1 and len(self.groups) > 1:
            place = (1, kinds.index(self.groups[0]) if self.groups[0] in kinds else len(kinds))
        else:
            place = (2, pairs.index((self.inter, self.intra)) if (self.inter, self.intra) in pairs else len(pairs))
        return ours, *place, *self.size


def read_variant(folder: Path) -> Variant:
    """Find a run's saved config, in its folder or in its logger's below, and read the conditioner in it.

    Raises:
        ValueError: There is none, or it is not that of a restorer with a MoE conditioner.
    """
    found = sorted({*folder.glob(_CONFIG_NAME), *folder.glob(f"*/{_CONFIG_NAME}")})
    if not found:
        raise ValueError(
            f"{folder} and the folders in it hold no {_CONFIG_NAME}, which training saves; an ablation table cannot do without"
        )
    try:
        model = yaml.safe_load(found[-1].read_text())["model"]["init_args"]
        conditioner, balance = model["conditioner"]["init_args"], model["balance"]["init_args"]
        groups, intra = tuple(conditioner["groups"]), conditioner["intra"]
        balanced = any(balance.get(name) for name in _WEIGHTS)
        return Variant(conditioner["inter"], intra, groups, int(conditioner["num_experts"]), int(conditioner["top_k"]), balanced)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{found[-1]} is not the config of a restorer with a MoE conditioner ({type(error).__name__}: {error})") from error


def ablation_table(runs: Sequence[Scores]) -> str:
    """Markdown: one line a run in the paper's order, what it varies, and its means with the difference to the full model.

    The full model is the run of dense groups of different kinds and sparse sub-experts whose losses are on, of the numbers of sub-experts
    and k that most runs have. Without one there are no differences.

    Raises:
        ValueError: A run has no config; see `read_variant`.
    """
    variants = {run.name: read_variant(run.folder) for run in runs}
    sizes = [variant.size for variant in variants.values()]
    usual = max(sizes, key=sizes.count)
    ordered = sorted(runs, key=lambda run: variants[run.name].order(usual))
    full = next((run for run in ordered if _is_full(variants[run.name]) and variants[run.name].size == usual), None)
    columns = [
        (benchmark, metric, average)
        for benchmark, side, metric in dict.fromkeys(key for run in ordered for key in run.means)
        if side == "output"
        for average in (GROUP_MEAN, IMAGE_MEAN)
    ]
    head = ["run", "Inter-MoE", "Intra-MoE", "groups", "E", "k", "routing losses"]
    head += [f"{benchmark} {metric}, {average}" for benchmark, metric, average in columns]
    lines = ["## Ablation", "", _bar(head), "|---" * len(head) + "|"]
    for run in ordered:
        variant = variants[run.name]
        experts = (
            ["-", "-"] if variant.intra == "none" else [str(variant.experts), "all" if variant.intra == "dense" else str(variant.top_k)]
        )
        kinds = dict.fromkeys(variant.groups)
        told = " ".join(kinds) if len(kinds) == len(variant.groups) else ", ".join(f"{variant.groups.count(kind)} {kind}" for kind in kinds)
        cells = [run.name, variant.inter, variant.intra, told, *experts, "on" if variant.balanced else "off"]
        lines.append(_bar([*cells, *(_cell(run, full, *column) for column in columns)]))
    if full is not None:
        lines += ["", f"In brackets the difference to {full.name}, the full model."]
    return "\n".join(lines) + "\n"


def _is_full(variant: Variant) -> bool:
    different = len(set(variant.groups)) == len(variant.groups)
    return different and variant.balanced and (variant.inter, variant.intra) == ("dense", "sparse")


def _cell(run: Scores, full: Scores | None, benchmark: str, metric: str, average: str) -> str:
    mean = run.means.get((benchmark, "output", metric), {}).get(average)
    if mean is None:
        return "-"
    digits = 2 if abs(mean.value) >= 10 else 4
    told = f"{mean.value:.{digits}f}"
    other = None if full is None else full.means.get((benchmark, "output", metric), {}).get(average)
    return told if other is None or run is full else f"{told} ({mean.value - other.value:+.{digits}f})"


def _bar(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
