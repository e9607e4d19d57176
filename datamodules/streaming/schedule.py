"""Mixtures of a training run one after another, and how worker processes see one that was added. Not in the paper.

The shares of the groups may change while a run goes on (`callbacks.DataEquilibrium`). A change is a mixture with a first epoch that no
consumer can have begun, so it does not matter when a worker sees it: the order stays a function of (seed, epoch, position).
"""

from dataclasses import dataclass
from typing import Any

import torch

from datamodules.streaming.mixture import Mixture

SLOTS = 64
"""Mixtures that a worker process can see; one is no longer needed once all consumers are past its epochs."""

_FREE = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class MixtureSchedule:
    """Mixtures by their first epochs, all with the same number of samples per epoch.

    Attributes:
        configured: Quotas from the config. A resumed run with others follows its config; see `continue_stream`.
        mixtures: The mixtures, earliest first; the first one also holds for earlier epochs.
    """

    configured: dict[str, int]
    mixtures: tuple[Mixture, ...]

    @classmethod
    def of(cls, mixture: Mixture) -> "MixtureSchedule":
        """Return the schedule of a mixture from the config."""
        return cls(mixture.quotas, (mixture,))

    @property
    def newest(self) -> Mixture:
        """Mixture that was added last."""
        return self.mixtures[-1]

    @property
    def samples(self) -> int:
        """Samples of one epoch."""
        return self.newest.samples

    def at(self, epoch: int) -> Mixture:
        """Return the mixture of an epoch."""
        return next((mixture for mixture in reversed(self.mixtures) if mixture.first_epoch <= epoch), self.mixtures[0])

    def followed_by(self, quotas: dict[str, int], *, first_epoch: int) -> "MixtureSchedule":
        """Return the schedule with other quotas from ``first_epoch`` on; mixtures that would begin there or later are dropped."""
        assert sum(quotas.values()) == self.samples, "an epoch's length is fixed"
        before = tuple(mixture for mixture in self.mixtures if mixture.first_epoch < first_epoch)
        assert before, "the epoch that is being read has a mixture"
        return MixtureSchedule(self.configured, (*before, before[-1].followed_by(quotas, first_epoch=first_epoch)))

    def since(self, epoch: int) -> "MixtureSchedule":
        """Return the schedule without the mixtures that only earlier epochs need."""
        old = [mixture for mixture in self.mixtures[1:] if mixture.first_epoch <= epoch]
        return MixtureSchedule(self.configured, self.mixtures[len(old) :])

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint: ``mixture`` and, after a change, ``followers`` and ``configured``."""
        first, *others = (mixture.state_dict() for mixture in self.mixtures)
        if not others and self.configured == self.newest.quotas:
            return {"mixture": first}
        return {"mixture": first, "followers": others, "configured": dict(self.configured)}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "MixtureSchedule":
        """Return the schedule of a `state_dict`, or of a checkpoint from before there were schedules."""
        mixtures = tuple(Mixture.from_state_dict(each) for each in (state["mixture"], *state.get("followers", ())))
        return cls(dict(state.get("configured", mixtures[0].quotas)), mixtures)


class SharedMixtures:
    """Mixtures of a schedule in shared memory, where persistent worker processes see those that are added later.

    Args:
        groups: All groups that a mixture may name.
        schedule: The mixtures so far.
    """

    def __init__(self, groups: list[str], schedule: MixtureSchedule) -> None:
        self.groups, self.samples = sorted(groups), schedule.samples
        # A row: the first epoch, then the quotas and the bases of the groups.
        self._rows = torch.full((SLOTS, 1 + 2 * len(self.groups)), _FREE, dtype=torch.int64).share_memory_()
        for mixture in schedule.mixtures:
            self.add(mixture)

    def add(self, mixture: Mixture) -> None:
        """Add a mixture whose first epoch no consumer has begun; those that would begin there or later are dropped."""
        first_epochs = self._rows[:, 0]
        first_epochs[first_epochs >= mixture.first_epoch] = _FREE
        free = (first_epochs == _FREE).nonzero()
        slot = int(free[0]) if len(free) else int(first_epochs.argmin())
        counts = [counts.get(group, 0) for counts in (mixture.quotas, mixture.bases) for group in self.groups]
        first_epochs[slot] = _FREE
        self._rows[slot, 1:] = torch.tensor(counts)
        first_epochs[slot] = mixture.first_epoch

    def at(self, epoch: int) -> Mixture:
        """Return the mixture of an epoch."""
        first_epochs = self._rows[:, 0].tolist()
        held = [slot for slot, first in enumerate(first_epochs) if first != _FREE]
        past = [slot for slot in held if first_epochs[slot] <= epoch]
        slot = max(past, key=first_epochs.__getitem__) if past else min(held, key=first_epochs.__getitem__)
        row = self._rows[slot, 1:].tolist()
        quotas, bases = row[: len(self.groups)], row[len(self.groups) :]
        return Mixture(
            {group: quota for group, quota in zip(self.groups, quotas) if quota}, dict(zip(self.groups, bases)), first_epochs[slot]
        )
