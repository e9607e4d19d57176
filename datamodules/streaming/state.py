"""The training stream's state over all ranks: gathering it, and continuing it here, however many consumers there are now."""

import logging
from typing import Any

from datamodules.streaming.mixture import Mixture
from datamodules.streaming.partition import Laps
from datamodules.streaming.progress import Progress
from mimdit.core.collectives import gather

_log = logging.getLogger(__name__)


def stream_state(line_seed: int, hashes: dict[str, str], mixture: Mixture, laps: Laps, progress: Progress) -> dict[str, Any]:
    """Everything that `continue_stream` needs, as plain values.

    Gathers over the ranks, so all of them must call it: Lightning keeps what rank 0 returns and gives it to all ranks on loading, so rank 0
    must hold everybody's.
    """
    return {
        "seed": line_seed,
        "hashes": hashes,
        "mixture": mixture.state_dict(),
        "laps": laps.state_dict(),
        "ranks": gather(progress.state_dict()),
    }


def continue_stream(
    state: dict[str, Any], *, seed: int, hashes: dict[str, str], quotas: dict[str, int], workers: int, world_size: int, rank: int
) -> tuple[Mixture, Laps, Progress]:
    """Continue a `stream_state` with ``world_size × workers`` consumers and these quotas: the mixture, the laps and this rank's progress.

    With as many consumers as before and the same quotas the very next batches follow. With another number of consumers what is unread of
    the epochs that were begun is cut anew: nothing repeats, nothing is lost, the order changes. With other quotas (another stage of
    training) the lines of all groups go on where the epoch that was begun ends; what was unread of it is left out. Both are logged.

    Raises:
        ValueError: The seed or a group's shards are others.
    """
    if state["seed"] != seed:
        raise ValueError(
            f"The checkpoint was written with another value of data.seed: {state['seed']} there, {seed} here. The order of the training "
            "data cannot be continued. Resume with the same seed, or start a new run from the checkpoint's weights."
        )
    for group, digest in state["hashes"].items():
        if hashes.get(group, digest) != digest:
            raise ValueError(
                f"The training shards of group {group} are others than those of the checkpoint (their checksums differ). Resume with the "
                "same data.train and data.overfit, or start a new run from the checkpoint's weights."
            )
    mixture, laps = Mixture.from_state_dict(state["mixture"]), Laps.from_state_dict(state["laps"])
    positions = [(lap, offset) for each in state["ranks"] for lap, offset in each["positions"]]
    if quotas != mixture.quotas:
        begun = max(lap for lap, _ in positions)
        unread = sum(stop - start for _, start, stop in laps.recut(positions).remainder)
        mixture = mixture.followed_by(quotas, first_epoch=begun + 1)
        laps = Laps(mixture.samples, (), begun + 1)
        described = _described(quotas)
        _say(rank, f"The groups or their weights changed: from now on {described}. {unread} samples of epoch {begun} are left out.")
    elif len(positions) != world_size * workers:
        laps = laps.recut(positions)
        unread = sum(stop - start for _, start, stop in laps.remainder)
        _say(
            rank,
            f"The checkpoint's {len(positions)} consumers (ranks x workers) are {world_size * workers} now: {unread} unread samples of the "
            f"epochs before {laps.first_epoch} are shared out anew. None repeats or is lost, but their order is another.",
        )
    elif len(state["ranks"]) == world_size:
        progress = Progress(workers, laps.first)
        progress.load_state_dict(state["ranks"][rank])
        return mixture, laps, progress
    else:
        # As many consumers on other ranks: each goes on, but whose batch comes first is not kept.
        progress = Progress(workers, laps.first)
        progress.positions = positions[rank * workers : (rank + 1) * workers]
        _say(rank, f"The consumers are on {world_size} ranks now, {len(state['ranks'])} before: each goes on where it was.")
        return mixture, laps, progress
    return mixture, laps, Progress(workers, laps.first)


def _described(quotas: dict[str, int]) -> str:
    total = sum(quotas.values())
    return ", ".join(f"{group} {count / total:.1%}" for group, count in quotas.items())


def _say(rank: int, message: str) -> None:
    if rank == 0:
        _log.warning(message)
