"""Mixture of the training stream: samples of each group per epoch, and positions in the groups' orders. Not in the paper.

A group's order never starts over: epoch e continues it by the group's quota. Without weights the quota is the group's size, so that an
epoch uses every sample once. (FoundIR trains on isolated groups first, then on all, arXiv 2412.01427.)
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mixture:
    """Quotas of the chosen groups, in samples per epoch, and the positions in all groups' orders at ``first_epoch``.

    ``bases`` also keeps the positions of groups that are not chosen now, in case they are chosen again.
    """

    quotas: dict[str, int]
    bases: dict[str, int] = dataclasses.field(default_factory=dict)
    first_epoch: int = 0

    @property
    def samples(self) -> int:
        """Samples of one epoch."""
        return sum(self.quotas.values())

    def start(self, group: str, epoch: int) -> int:
        """Return the position in a group's order at which ``epoch`` begins, counted over all repeats of the group."""
        return self.bases.get(group, 0) + (epoch - self.first_epoch) * self.quotas.get(group, 0)

    def at(self, epoch: int) -> "Mixture":
        """Return the mixture of an epoch: this one."""
        return self

    def followed_by(self, quotas: dict[str, int], *, first_epoch: int) -> "Mixture":
        """Return the mixture with other quotas from ``first_epoch`` on; every group's order continues from its position there."""
        groups = sorted({*self.bases, *self.quotas, *quotas})
        return Mixture(dict(quotas), {group: self.start(group, first_epoch) for group in groups}, first_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Mixture":
        """Return the mixture of a `state_dict`."""
        return cls(dict(state["quotas"]), dict(state["bases"]), state["first_epoch"])


def make_quotas(
    sizes: dict[str, int],
    *,
    groups: list[str] | None = None,
    weights: dict[str, float] | None = None,
    temperature: float | None = None,
    samples: int | None = None,
) -> dict[str, int]:
    """Distribute an epoch's samples over the chosen groups.

    Args:
        sizes: Samples of all groups.
        groups: The chosen groups; None for all, or for the keys of ``weights``.
        weights: Relative number of samples of each chosen group; None for their sizes.
        temperature: Weights are ``size ** (1 / temperature)``: 1 gives the sizes, large values make all groups alike.
        samples: Samples of an epoch; None for as many as the chosen groups have together, or more where small groups were rounded up to
            one.

    Raises:
        ValueError: A name is unknown, a weight is missing or negative, all are zero, both weights and temperature are given, or an epoch
            has fewer samples than groups.
    """
    if weights is not None and temperature is not None:
        raise ValueError("data.weights and data.temperature are both set; each sets the samples of a group. Set one of them.")
    chosen = list(groups) if groups is not None else sorted(weights) if weights is not None else sorted(sizes)
    for name in (*chosen, *(weights or ())):
        if name not in sizes:
            raise ValueError(f"There is no training group {name!r}. The shards hold {', '.join(sorted(sizes))}.")
    if not chosen:
        raise ValueError("data.groups is empty; name at least one training group, or set null for all.")
    total = sum(sizes[group] for group in set(chosen))
    if weights is None:
        if temperature is None or temperature == 1:
            quotas = {group: sizes[group] for group in sorted(set(chosen)) if sizes[group]}
            return quotas if samples is None else quotas_of_shares(quotas, samples)
        if temperature <= 0:
            raise ValueError(f"data.temperature is {temperature}; it must be above 0 (1 leaves the groups' sizes as they are).")
        weights = {group: sizes[group] ** (1 / temperature) for group in chosen}
    if missing := sorted(set(chosen) - set(weights)):
        raise ValueError(f"data.weights does not name {', '.join(missing)}; give every chosen group a weight (0 leaves it out).")
    bad = {group: weights[group] for group in chosen if not weights[group] >= 0 or (weights[group] and not sizes[group])}
    if bad or not any(weights[group] for group in chosen):
        raise ValueError(
            f"data.weights must be at least 0, one of them above, and only groups with samples can have one, not {bad or weights}."
        )
    positive = {group: weights[group] for group in sorted(set(chosen)) if weights[group]}
    return _largest_remainders(positive, total) if samples is None else quotas_of_shares(positive, samples)


def quotas_of_shares(shares: Mapping[str, float], samples: int) -> dict[str, int]:
    """Return whole numbers proportional to ``shares``, at least one each, that sum to ``samples`` exactly.

    Raises:
        ValueError: There are fewer samples than groups.
    """
    if samples < len(shares):
        raise ValueError(
            f"data.epoch_samples is {samples}, but there are {len(shares)} training groups, and each needs a sample. Raise it, or set null."
        )
    quotas = _largest_remainders(shares, samples)
    while sum(quotas.values()) > samples:  # small groups were rounded up to one
        quotas[max(quotas, key=lambda group: (quotas[group], group))] -= 1
    return quotas


def _largest_remainders(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Return whole numbers proportional to ``weights``, at least one each.

    They sum to ``total``, or to more where small groups were rounded up to one.
    """
    shares = {group: weight / sum(weights.values()) * total for group, weight in weights.items()}
    quotas = {group: max(1, int(share)) for group, share in shares.items()}
    by_remainder = sorted(shares, key=lambda group: (quotas[group] - shares[group], group))
    for group in by_remainder[: max(0, total - sum(quotas.values()))]:
        quotas[group] += 1
    return quotas
