"""State of the training stream over all ranks: gather it, and continue it with any number of consumers."""

import logging
from typing import Any

from datamodules.streaming.partition import Partition, Progress
from datamodules.streaming.schedule import MixtureSchedule
from mimdit.core.collectives import gather

_log = logging.getLogger(__name__)


def stream_state(
    order_seed: int, hashes: dict[str, str], mixtures: MixtureSchedule, partition: Partition, progress: Progress
) -> dict[str, Any]:
    """Return the input of `continue_stream` as plain values.

    A collective: all ranks must call it. Lightning stores the return value of rank 0 and gives it to all ranks on loading,
    so rank 0 must hold the positions of every rank.
    """
    return {
        "seed": order_seed,
        "hashes": hashes,
        **mixtures.state_dict(),
        "laps": partition.state_dict(),  # the name in checkpoints
        "ranks": gather(progress.state_dict()),
    }


def oldest_epoch(partition: Partition, positions: list[tuple[int, int]]) -> int:
    """Return the first epoch that a consumer may still read."""
    oldest = min(pass_number for pass_number, _ in positions)
    return min([oldest, *(epoch for epoch, _, _ in partition.remainder if oldest < partition.first_epoch)])


def continue_stream(
    state: dict[str, Any], *, seed: int, hashes: dict[str, str], quotas: dict[str, int], workers: int, world_size: int, rank: int
) -> tuple[MixtureSchedule, Partition, Progress]:
    """Continue a `stream_state` with ``world_size × workers`` consumers and these quotas.

    With the same number of consumers and the same quotas the very next batches follow. With another number of consumers the unread samples
    of the epochs that were begun are cut anew: none repeats, none is lost, the order changes. With other quotas than those configured
    when the state was written (another stage of training) the orders of all groups continue where the current epoch ends; its unread
    samples are left out. Both changes are logged. Shares that were changed during training are continued.

    Returns:
        The mixtures, the partition and the progress of this rank.

    Raises:
        ValueError: The seed or a group's shards have changed.
    """
    if state["seed"] != seed:
        raise ValueError(
            f"The checkpoint was written with another value of data.seed: {state['seed']} there, {seed} here. The order of the training "
            "data cannot be continued. Resume with the same seed, or start a new run from the checkpoint's weights."
        )
    for group, digest in state["hashes"].items():
        if hashes.get(group, digest) != digest:
            raise ValueError(
                f"The training shards of group {group} differ from the checkpoint's (by their checksums). Resume with the same "
                "data.train and data.overfit, or start a new run from the checkpoint's weights."
            )
    mixtures, partition = MixtureSchedule.from_state_dict(state), Partition.from_state_dict(state["laps"])
    positions = [(pass_number, offset) for each in state["ranks"] for pass_number, offset in each["positions"]]
    if quotas != mixtures.configured:
        begun = max(pass_number for pass_number, _ in positions)
        unread = sum(stop - start for _, start, stop in partition.recut(positions).remainder)
        mixture = mixtures.at(begun + 1).followed_by(quotas, first_epoch=begun + 1)
        mixtures, partition = MixtureSchedule.of(mixture), Partition(mixture.samples, (), begun + 1)
        described = _described(quotas)
        _warn(rank, f"The groups or their weights changed: from now on {described}. {unread} samples of epoch {begun} are left out.")
    elif len(positions) != world_size * workers:
        partition = partition.recut(positions)
        unread = sum(stop - start for _, start, stop in partition.remainder)
        _warn(
            rank,
            f"The checkpoint has {len(positions)} consumers (ranks x workers), this run {world_size * workers}: {unread} unread samples of "
            f"the epochs before {partition.first_epoch} are cut anew. None repeats or is lost, but their order changes.",
        )
    elif len(state["ranks"]) == world_size:
        progress = Progress(workers, partition.first)
        progress.load_state_dict(state["ranks"][rank])
        return mixtures, partition, progress
    else:
        # As many consumers on other ranks: each continues, but the consumer of the next batch is not kept.
        progress = Progress(workers, partition.first)
        progress.positions = positions[rank * workers : (rank + 1) * workers]
        _warn(rank, f"The consumers are on {world_size} ranks now, {len(state['ranks'])} before: each continues where it was.")
        return mixtures, partition, progress
    return mixtures, partition, Progress(workers, partition.first)


def _described(quotas: dict[str, int]) -> str:
    total = sum(quotas.values())
    return ", ".join(f"{group} {count / total:.1%}" for group, count in quotas.items())


def _warn(rank: int, message: str) -> None:
    if rank == 0:
        _log.warning(message)
