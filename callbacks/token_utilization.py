"""TokenUtilization: log the use of the experts inside the transformer to TensorBoard."""

from __future__ import annotations

from typing import Any

import lightning as L

from callbacks.loggers import has_tensorboard, tensorboard_writer
from mimdit.routing.token_utilization import TokenCounts, TokenStatistics, token_utilization


class TokenUtilization(L.Callback):
    """Count the tokens of each expert inside the transformer (``backbone.moe``) over all ranks, and log their statistics on rank 0.

    Reads ``outputs["token_routing"]`` of the training step; does nothing if a module returns none. Counting never waits for the device;
    once per window there is one all-reduce and one copy to the host. Validation does not change the counts. See
    `mimdit.routing.token_utilization.TokenStatistics` for the statistics. Not in the paper.

    Args:
        every_n_steps: Optimizer steps of one window of counts.
        bins: Bins of equal width of sigma's range 0..1, for which loads are also logged.
        per_expert: If true, log the load of every expert, also by bin. With a hundred experts these are thousands of curves.

    Raises:
        ValueError: A number is below 1.
    """

    def __init__(self, every_n_steps: int = 50, *, bins: int = 4, per_expert: bool = True) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} of TokenUtilization must be at least 1")
        self.every_n_steps, self.per_expert = every_n_steps, per_expert
        self._window = TokenCounts(bins)
        self._active, self._last_step = False, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the first window at the step that training starts or resumes from."""
        self._active = has_tensorboard(trainer, type(self).__name__)
        self._window.reset()
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count a micro-batch; reduce and log at the end of a window."""
        routing = outputs.get("token_routing") if isinstance(outputs, dict) else None
        if routing is None or not self._active:
            return
        self._window.update(routing)
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        if step % self.every_n_steps == 0:
            self._close_window(trainer, step)

    def _close_window(self, trainer: L.Trainer, step: int) -> None:
        """Reduce over all ranks, and log if this rank has a writer."""
        self._window.all_reduce()
        if (writer := tensorboard_writer(trainer)) is not None:
            statistics = token_utilization(self._window)
            scalars = _summary(statistics) | _by_block(statistics) | (_by_expert(statistics) if self.per_expert else {})
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, step)
        self._window.reset()


def _summary(statistics: TokenStatistics) -> dict[str, float]:
    """Return the scalars of the whole transformer: means, and the worst block."""
    return {
        "tokens/max_violation_mean": statistics.max_violation_L.mean().item(),
        "tokens/max_violation_worst": statistics.max_violation_L.max().item(),
        "tokens/load_entropy_mean": statistics.load_entropy_L.mean().item(),
        "tokens/load_entropy_worst": statistics.load_entropy_L.min().item(),
        "tokens/unused": float(statistics.unused_L.sum()),
        "tokens/sigma_information_mean": statistics.information_L.mean().item(),
    }


def _bins(statistics: TokenStatistics) -> list[tuple[int, str]]:
    """Return index and name of each bin with tokens, such as ``sigma0.25-0.50``."""
    count = len(statistics.tokens_S)
    return [(b, f"sigma{b / count:.2f}-{(b + 1) / count:.2f}") for b in range(count) if statistics.tokens_S[b] > 0]


def _by_block(statistics: TokenStatistics) -> dict[str, float]:
    """Return the scalars of every block."""
    scalars = {}
    for index, block in enumerate(statistics.blocks):
        scalars[f"tokens_blocks/max_violation/block{block}"] = statistics.max_violation_L[index].item()
        scalars[f"tokens_blocks/load_entropy/block{block}"] = statistics.load_entropy_L[index].item()
        scalars[f"tokens_blocks/sigma_information/block{block}"] = statistics.information_L[index].item()
        for number, name in _bins(statistics):
            scalars[f"tokens_blocks/max_violation_by_sigma/block{block}/{name}"] = statistics.max_violation_SL[number, index].item()
    return scalars


def _by_expert(statistics: TokenStatistics) -> dict[str, float]:
    """Return the load of every expert, over all noise levels and in each bin."""
    scalars = {}
    for index, block in enumerate(statistics.blocks):
        for expert, load in enumerate(statistics.load_LE[index].tolist()):
            scalars[f"tokens_load/block{block}/e{expert}"] = load
            for number, name in _bins(statistics):
                scalars[f"tokens_load_by_sigma/block{block}/{name}/e{expert}"] = statistics.load_SLE[number, index, expert].item()
    return scalars
