"""The ablation table: the conditioner of each run, by its config, and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mimdit.core.markdown import markdown_row
from mimdit.evaluation.report.runs import GROUP_MEAN, IMAGE_MEAN, Run

_CONFIG_NAME = "config.yaml"
_WEIGHTS = ("balance", "z", "importance", "specialization", "contrast", "guide")


@dataclass(frozen=True)
class Variant:
    """Ablated settings of a run, from its saved config."""

    inter: str
    intra: str
    groups: tuple[str, ...]
    experts: int
    top_k: int
    balanced: bool

    @property
    def size(self) -> tuple[int, int]:
        """Numbers E of sub-experts per group and k of sub-experts per image."""
        return self.experts, self.top_k

    def order(self, usual: tuple[int, int]) -> tuple[int, ...]:
        """Return the sort key of the paper's order; variants that are not in the paper come last.

        The paper's order is no Intra-MoE, expert groups all of one kind, dense-dense, sparse-sparse, sparse-dense, dense-sparse. Not in the
        paper are runs without routing losses, expert groups without a gate, and another `size` than ``usual``.
        """
        kinds = ["spatial", "channel", "swin", "se"]
        pairs = [("dense", "dense"), ("sparse", "sparse"), ("sparse", "dense"), ("dense", "sparse")]
        beyond = 0 if self.balanced and (self.inter, self.intra) in [*pairs, ("dense", "none")] and self.size == usual else 1
        if self.intra == "none":
            place = (0, 0)
        elif len(set(self.groups)) == 1 and len(self.groups) > 1:
            place = (1, kinds.index(self.groups[0]) if self.groups[0] in kinds else len(kinds))
        else:
            place = (2, pairs.index((self.inter, self.intra)) if (self.inter, self.intra) in pairs else len(pairs))
        return beyond, *place, *self.size


def read_variant(folder: Path) -> Variant:
    """Read the conditioner of a run's saved config, which is in its folder or in its logger's folder below.

    Raises:
        ValueError: There is no config, or it is not for a restorer with a MoE conditioner.
    """
    found = sorted({*folder.glob(_CONFIG_NAME), *folder.glob(f"*/{_CONFIG_NAME}")})
    if not found:
        raise ValueError(f"{folder} and the folders in it hold no {_CONFIG_NAME}, which training saves and an ablation table needs")
    try:
        config: Any = OmegaConf.load(found[-1])
        model = config["model"]["init_args"]
        conditioner, balance = (_resolved(model[part]["init_args"]) for part in ("conditioner", "balance"))
        groups, intra = tuple(conditioner["groups"]), conditioner["intra"]
        balanced = any(balance.get(name) for name in _WEIGHTS)
        return Variant(conditioner["inter"], intra, groups, int(conditioner["num_experts"]), int(conditioner["top_k"]), balanced)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{found[-1]} is not the config of a restorer with a MoE conditioner ({type(error).__name__}: {error})") from error


def _resolved(part: DictConfig) -> dict[str, Any]:
    """Return a part of a config with the values that its ``${…}`` name; they may be anywhere in the config."""
    content = OmegaConf.to_container(part, resolve=True)
    if not isinstance(content, dict):
        raise TypeError(f"{content!r} is not a mapping")
    return {str(key): value for key, value in content.items()}


def ablation_table(runs: Sequence[Run]) -> str:
    """Return Markdown with one line per run in the paper's order: its settings, and its means with the difference to the full model.

    The full model has a dense Inter-MoE gate over different expert groups, sparse Intra-MoE gates and routing losses, with the most
    common E and k. Without such a run there are no differences.

    Raises:
        ValueError: A run has no config; see `read_variant`.
    """
    variants = {run.name: read_variant(run.folder) for run in runs}
    sizes = [variant.size for variant in variants.values()]
    usual = max(sizes, key=sizes.count)
    ordered = sorted(runs, key=lambda run: variants[run.name].order(usual))
    full = next((run for run in ordered if _is_full(variants[run.name]) and variants[run.name].size == usual), None)
    columns = [
        (test_set, metric, average)
        for test_set, side, metric in dict.fromkeys(key for run in ordered for key in run.means)
        if side == "output"
        for average in (GROUP_MEAN, IMAGE_MEAN)
    ]
    head = ["run", "Inter-MoE", "Intra-MoE", "groups", "E", "k", "routing losses"]
    head += [f"{test_set} {metric}, {average}" for test_set, metric, average in columns]
    lines = ["## Ablation", "", markdown_row(head), "|---" * len(head) + "|"]
    for run in ordered:
        variant = variants[run.name]
        experts = (
            ["-", "-"] if variant.intra == "none" else [str(variant.experts), "all" if variant.intra == "dense" else str(variant.top_k)]
        )
        kinds = dict.fromkeys(variant.groups)
        listed = (
            " ".join(kinds) if len(kinds) == len(variant.groups) else ", ".join(f"{variant.groups.count(kind)} {kind}" for kind in kinds)
        )
        cells = [run.name, variant.inter, variant.intra, listed, *experts, "on" if variant.balanced else "off"]
        lines.append(markdown_row([*cells, *(_cell(run, full, *column) for column in columns)]))
    if full is not None:
        lines += ["", f"In brackets the difference to {full.name}, the full model."]
    return "\n".join(lines) + "\n"


def _is_full(variant: Variant) -> bool:
    different = len(set(variant.groups)) == len(variant.groups)
    return different and variant.balanced and (variant.inter, variant.intra) == ("dense", "sparse")


def _cell(run: Run, full: Run | None, test_set: str, metric: str, average: str) -> str:
    mean = run.means.get((test_set, "output", metric), {}).get(average)
    if mean is None:
        return "-"
    digits = 2 if abs(mean.value) >= 10 else 4
    text = f"{mean.value:.{digits}f}"
    other = None if full is None else full.means.get((test_set, "output", metric), {}).get(average)
    return text if other is None or run is full else f"{text} ({mean.value - other.value:+.{digits}f})"
