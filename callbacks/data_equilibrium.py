"""DataEquilibrium: move the training groups' shares by how their validation scores move."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import lightning as L
import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from callbacks.due_validation import validate_on_resuming, validation_is_due
from callbacks.loggers import log_scalars
from callbacks.mixing_law import fit_law, step_within
from callbacks.scores import Quality
from datamodules.degradations.groups import is_clean
from datamodules.restoration import RestorationDataModule
from mimdit.core.collectives import gather, on_rank_zero
from mimdit.core.connected_trainer import connected
from mimdit.evaluation.metrics import PSNR_OF_IDENTICAL


class DataEquilibrium(L.Callback):
    """Change the shares of the training groups after each validation, by a law fitted to the last ones.

    A window is the training between two validations: the share that each group really got in it, and the change of its validation score.
    Rule ``law`` fits ``change = common + own * share`` to the last windows of each group (`callbacks.mixing_law.fit_law`) and multiplies
    shares by ``exp(step * own)``: groups get more whose score gains most by their own data. Rule ``feedback`` is the update of FoundIR-v2
    (arXiv 2512.09282): shares times ``exp(-step * change)`` of the last window, so groups get more whose score fell.

    The new shares hold from the next epoch of the training stream that no worker can have begun (`RestorationDataModule.set_shares`); set
    ``data.epoch_samples`` to about the samples between two validations, or they wait for the end of all data. They are whole samples of
    an epoch, so a bound may be missed by less than one sample. The law is computed on rank 0 from scores and counts that are reduced over
    the ranks, and broadcast: processors may round differently. Shares, windows and counts are in checkpoints, so a resumed run has the
    same shares and samples as one that was not stopped; a checkpoint between a step and its validation makes the resumed run validate
    first. Validation must come after a number of batches, not of minutes.

    Logs ``data_share/<group>``, in percent, and ``data_gain/<group>``, in dB, and a line of the changes.

    Not in the paper: data equilibrium is FoundIR-v2's (arXiv 2512.09282), which evaluates every 30,000 steps on ten images of a task and
    bounds an update to 5 to 10 %; the law is after data mixing laws (arXiv 2403.16952) and Aioli (arXiv 2411.05735). Window and ridge,
    the diagonal form and the bounds in units of the uniform share are this project's.

    Args:
        metric: Score of ``val_groups/<group>/`` that `Quality` logs: ``psnr_output``, ``psnr_estimate`` or ``psnr_gain``; images that need
            nothing have no gain.
        rule: ``law`` or ``feedback``.
        windows: Number of newest windows that the law is fitted to.
        min_windows: Windows before the first change; at least 1. One window cannot separate the effect of the data from that of
            time.
        ridge: Penalty on the law's coefficients; above 0.
        step: Exponent for each dB of gain; above 0.
        floor: Least share of a group, as a part of the uniform share: above 0, at most 1.
        ceiling: Largest share of a group, in uniform shares; at least 1.
        max_change: Largest change of a share at once, in uniform shares; above 0.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        metric: str = "psnr_output",
        rule: Literal["law", "feedback"] = "law",
        windows: int = 8,
        min_windows: int = 2,
        ridge: float = 0.1,
        step: float = 0.5,
        floor: float = 0.25,
        ceiling: float = 4.0,
        max_change: float = 0.25,
    ) -> None:
        if metric not in ("psnr_output", "psnr_estimate", "psnr_gain"):
            raise ValueError(f"metric={metric!r} of DataEquilibrium must be psnr_output, psnr_estimate or psnr_gain")
        if rule not in ("law", "feedback"):
            raise ValueError(f"rule={rule!r} of DataEquilibrium must be law or feedback")
        if not 1 <= min_windows <= windows:
            raise ValueError(f"min_windows={min_windows} of DataEquilibrium must be at least 1 and at most windows={windows}")
        for name, value in (("ridge", ridge), ("step", step), ("max_change", max_change)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name}={value} of DataEquilibrium must be above 0")
        if not 0 < floor <= 1:
            raise ValueError(
                f"floor={floor} of DataEquilibrium must be above 0 and at most 1: it is a part of the uniform share, so above 1 the least "
                "shares of all groups would sum to more than everything"
            )
        if not 1 <= ceiling < float("inf"):
            raise ValueError(f"ceiling={ceiling} of DataEquilibrium must be at least 1 uniform share; below, the shares cannot sum to 1")
        self.metric, self.rule, self.windows, self.min_windows = metric, rule, windows, min_windows
        self.ridge, self.step = ridge, step
        self.floor, self.ceiling, self.max_change = floor, ceiling, max_change
        self._counts: Counter[str] = Counter()  # images of this rank in the open window
        self._counts_before: Counter[str] = Counter()  # those of all ranks before the run was resumed
        self._scores: dict[str, float] = {}
        self._history: list[dict[str, dict[str, float]]] = []
        self._due = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that there are groups, scores of them and shares to change.

        Raises:
            ValueError: The data module cannot change shares, there is no validation or no `Quality`, there are fewer than two groups, one
                has no gain, or the shares to start with are out of bounds.
        """
        data = connected(trainer).datamodule
        if not isinstance(data, RestorationDataModule):
            raise ValueError(
                f"callbacks.DataEquilibrium changes the shares of datamodules.RestorationDataModule, not those of {type(data).__name__}; "
                "use that data module, or leave the callback out"
            )
        if not trainer.enable_validation or data.folders["validation"] is None:
            raise ValueError(
                "callbacks.DataEquilibrium needs validation scores; set data.validation, trainer.val_check_interval and "
                "trainer.limit_val_batches above 0, or leave the callback out"
            )
        if not any(isinstance(callback, Quality) for callback in connected(trainer).callbacks):
            raise ValueError("callbacks.DataEquilibrium reads the scores of callbacks.Quality; add callbacks.Quality to trainer.callbacks")
        if len(data.shares) < 2:
            raise ValueError(
                f"callbacks.DataEquilibrium moves shares between groups, but training has only {', '.join(data.shares)}; "
                "name more in data.groups, or leave the callback out"
            )
        if self.metric == "psnr_gain" and (clean := [group for group in data.shares if is_clean(group)]):
            raise ValueError(_no_gain(clean))
        one, rounding = 1 / len(data.shares), 1 / data.epoch_length
        least, most = self.floor * one - rounding, self.ceiling * one + rounding
        bad = {group: share for group, share in data.shares.items() if not least <= share <= most}
        if bad:
            described = ", ".join(f"{group} {share:.2%}" for group, share in bad.items())
            raise ValueError(
                f"The training shares {described} are outside of {self.floor * one:.2%} to {self.ceiling * one:.2%}: floor={self.floor} "
                f"and ceiling={self.ceiling} of DataEquilibrium times the uniform share. Widen the bounds, or change data.weights."
            )
        self._log(trainer, {})

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the images of each group."""
        self._counts.update(batch["group"])
        self._due = validation_is_due(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the window, and change the shares once there are enough.

        Raises:
            ValueError: Validation has no images of a training group, or only such that need nothing and so have no gain.
        """
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        data = connected(trainer).datamodule
        assert isinstance(data, RestorationDataModule), "checked at the start"
        self._due = False
        groups, before, counts = sorted(data.shares), self._scores, self._all_counts()
        self._scores = self._read_scores(trainer, groups)
        self._counts, self._counts_before = Counter(), Counter()
        if not before.keys() >= set(groups) or not counts:
            return
        images = sum(counts.values())
        window = {group: {"share": counts[group] / images, "change": self._scores[group] - before[group]} for group in groups}
        same = [past for past in self._history if past.keys() == window.keys()]  # another stage of training starts anew
        self._history = [*same, window][-self.windows :]
        if len(self._history) < self.min_windows:
            return
        shares = data.shares
        gains, wanted = on_rank_zero(lambda: self._balance(shares))
        first_epoch = data.set_shares(wanted)
        self._log(trainer, gains)
        moved = ", ".join(f"{group} {data.shares[group]:.1%} ({data.shares[group] - shares[group]:+.1%})" for group in groups)
        rank_zero_info(f"DataEquilibrium: from epoch {first_epoch} of the training stream on {moved}")

    def _read_scores(self, trainer: L.Trainer, groups: list[str]) -> dict[str, float]:
        """Return the score of each group, the same on all ranks."""
        names = {group: f"val_groups/{group}/{self.metric}" for group in groups}
        if missing := [group for group, name in names.items() if name not in trainer.callback_metrics]:
            inputs = {group: trainer.callback_metrics.get(f"val_groups/{group}/psnr_input") for group in missing}
            if same := [group for group, score in inputs.items() if score is not None and score >= PSNR_OF_IDENTICAL]:
                raise ValueError(_no_gain(same))
            raise ValueError(
                f"callbacks.DataEquilibrium found no {self.metric} of the training groups {', '.join(missing)} in this validation. Add "
                "pairs of them to data.validation, raise trainer.limit_val_batches, or leave them out of data.groups."
            )
        return {group: float(trainer.callback_metrics[name]) for group, name in names.items()}

    def _balance(self, shares: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
        """Return the gain of each group in dB for one uniform share more, and the new shares."""
        groups = sorted(shares)
        shares_WG = np.array([[window[group]["share"] for group in groups] for window in self._history])
        changes_WG = np.array([[window[group]["change"] for group in groups] for window in self._history])
        if self.rule == "law":
            gains_G, _ = fit_law(shares_WG * len(groups), changes_WG, ridge=self.ridge)
        else:
            gains_G = -changes_WG[-1]
        now_G = np.clip(np.array([shares[group] for group in groups]) * len(groups), self.floor, self.ceiling)
        bounds = {"floor": self.floor, "ceiling": self.ceiling, "max_change": self.max_change}
        next_G = step_within(now_G / now_G.mean(), gains_G, step=self.step, **bounds)
        return dict(zip(groups, gains_G.tolist())), dict(zip(groups, (next_G / next_G.sum()).tolist()))

    def _log(self, trainer: L.Trainer, gains: dict[str, float]) -> None:
        data = connected(trainer).datamodule
        assert isinstance(data, RestorationDataModule), "checked at the start"
        scalars = {f"data_share/{group}": 100 * share for group, share in data.shares.items()}
        log_scalars(trainer, scalars | {f"data_gain/{group}": gain for group, gain in gains.items()}, trainer.global_step)

    def _all_counts(self) -> Counter[str]:
        """Return the images of all ranks in the open window; a collective."""
        return sum(gather(self._counts), Counter(self._counts_before))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Make a run resumed between a step and its validation validate first."""
        if self._due:
            validate_on_resuming(checkpoint)

    def state_dict(self) -> dict[str, Any]:
        """Return scores, windows and the counts of all ranks; a collective, which Lightning calls on all ranks when saving."""
        return {"scores": self._scores, "windows": self._history, "counts": dict(self._all_counts())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore scores, windows and counts."""
        self._scores, self._history = dict(state_dict["scores"]), list(state_dict["windows"])
        self._counts, self._counts_before = Counter(), Counter(state_dict["counts"])


def _no_gain(groups: list[str]) -> str:
    return (
        f"callbacks.DataEquilibrium cannot use metric=psnr_gain with the training groups {', '.join(groups)}: their images need nothing, "
        "so they have no gain. Use metric=psnr_output, or leave them out of data.groups."
    )
