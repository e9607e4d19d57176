"""The training stream's state over all ranks: gathering it, and refusing one that cannot be continued."""

from typing import Any

import torch.distributed as dist

_REMEDIES = {
    "fingerprint": ("the training shards (fingerprint)", "Resume with the same data.train and data.overfit"),
    "seed": ("data.seed", "Resume with the same seed"),
    "world_size": ("the number of ranks", "Resume on as many ranks (devices × nodes)"),
    "workers": ("the number of consumers a rank (data.num_workers)", "Resume with the same data.num_workers"),
}


def gather_state(own: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every rank's state, in the order of ranks; without a process group only this one's.

    Lightning keeps what rank 0 returns and gives it to all ranks on loading, so rank 0 must hold everybody's.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    states: list[dict[str, Any]] = [{}] * dist.get_world_size()
    dist.all_gather_object(states, own)
    return states


def check_state(state: dict[str, Any], identity: dict[str, Any]) -> None:
    """Check that a stream with ``identity`` can continue ``state``.

    Raises:
        ValueError: Data, seed, ranks or workers differ.
    """
    for name, (what, remedy) in _REMEDIES.items():
        if state[name] != identity[name]:
            raise ValueError(
                f"The checkpoint was written with another value of {what}: {state[name]} there, {identity[name]} here. The order of "
                f"the training data cannot be continued exactly. {remedy}, or start a new run from the checkpoint's weights."
            )
