"""CompleteCheckpoint: keep the newest and the best checkpoints, all complete, and resume from the newest."""

from __future__ import annotations

import errno
import math
import os
import secrets
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.loggers import log_scalars, purge_lost_events
from callbacks.retention import CheckpointRecord, Retention
from mimdit.core.collectives import on_rank_zero, save_together
from mimdit.core.connected_trainer import connected
from mimdit.distributed.checkpoint_files import newest_complete, remove_checkpoint, tidy

LAST, BEST = "last.ckpt", "best.ckpt"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems without symbolic links."""


class CompleteCheckpoint(ModelCheckpoint):
    """Keep the ``keep`` newest and the ``keep_best`` best checkpoints; ``--ckpt_path last`` resumes from the newest complete one.

    `FSDP2Strategy` and `WholeCheckpointIO` save a checkpoint whole or not at all, and an older one is removed only after the newer one is
    saved, so a complete checkpoint exists at every moment. Files that a killed run left half written are removed when the next run starts
    training. Without a checkpoint, ``--ckpt_path last`` starts from the beginning, so a restarted job uses the same command. The links
    ``last.ckpt`` and ``best.ckpt`` point to the newest and the best. Only checkpoints that this callback wrote are ever removed.

    A checkpoint that cannot be written, for example because the disk is full, is abandoned on all ranks: the previous one stays, and the
    run warns, counts it in ``faults/failed_saves`` and continues. Not in the paper.

    Args:
        every_n_train_steps: Optimizer steps between checkpoints. The end of training is saved as well.
        keep: Number of newest checkpoints to keep; -1 for all.
        monitor: Logged value that ranks checkpoints, such as ``val/psnr_output``, read after every validation. A state that is among the
            best is saved even between two scheduled checkpoints. If None, only the newest are kept.
        mode: ``max`` if higher values are better, ``min`` if lower ones are.
        keep_best: Number of best checkpoints to keep.
        max_gigabytes: Limit on the total size in GB (10^9 bytes), including the checkpoint that is being written. The oldest are removed
            first, then the worst of the best; the newest always stays, so at least two must fit. If None, there is no limit.
        max_failed_saves: Number of consecutive saves that may fail; one more stops the run.
        dirpath: Folder of the checkpoints; None for ``checkpoints`` in the logger's folder.
        filename: Name pattern, without ``.ckpt``.

    Raises:
        ValueError: The settings would keep no checkpoint, or a limit is out of range.
    """

    def __init__(
        self, every_n_train_steps: int = 1000, *, keep: int = 2, monitor: str | None = None, mode: str = "max", keep_best: int = 1,
        max_gigabytes: float | None = None, max_failed_saves: int = 10, dirpath: str | None = None, filename: str = "step={step:07d}",
    ) -> None:  # fmt: skip
        if keep == 0 or keep < -1:
            raise ValueError(f"keep={keep} would leave no checkpoint to resume from; use 1 or more, or -1 for all")
        if keep_best < 1:
            raise ValueError(f"keep_best={keep_best} must be at least 1; to keep only the newest, leave keep_best out and monitor at null")
        if mode not in ("min", "max"):
            raise ValueError(f"mode={mode!r} is unknown; choose min or max")
        if max_gigabytes is not None and max_gigabytes <= 0:
            raise ValueError(f"max_gigabytes={max_gigabytes} must be above 0; null sets no limit")
        if max_failed_saves < 0:
            raise ValueError(f"max_failed_saves={max_failed_saves} is negative; 0 stops the run at the first save that fails")
        # Lightning never removes one; `Retention` decides that.
        super().__init__(
            dirpath,
            filename,
            save_top_k=-1,
            every_n_train_steps=every_n_train_steps,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        max_bytes = math.inf if max_gigabytes is None else max_gigabytes * 1e9
        self.score_name, self.retention = monitor, Retention(keep, keep_best if monitor else 0, mode, max_bytes)
        self.max_failed_saves = max_failed_saves
        self.failed_saves = 0
        """Number of checkpoints of this run that could not be written."""
        self._failed_in_a_row = 0
        self._step_of_last_batch = 0
        self._record: CheckpointRecord  # from the start of training on

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the folder of an earlier run after every rank has read the checkpoint to resume from.

        Steps after that checkpoint run again, so their events are purged from TensorBoard. The checkpoint counts as saved at this step.
        """
        super().on_train_start(trainer, pl_module)
        purge_lost_events(trainer)
        if not connected(trainer).fast_dev_run:
            trainer.strategy.barrier()
            resumed = on_rank_zero(lambda: self._take_over(trainer.ckpt_path))
            if resumed is not None:
                self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, resumed
        self._step_of_last_batch = trainer.global_step

    def _take_over(self, ckpt_path: str | Path | None) -> str | None:
        """Clean up the folder and read its record; return the path of the resumed checkpoint if the record lists it."""
        assert self.dirpath is not None, "ModelCheckpoint.setup sets it"
        folder = Path(self.dirpath)
        if folder.is_dir():
            tidy(folder)
        self._record = CheckpointRecord(folder)
        if ckpt_path is None:
            return None
        resumed = Path(ckpt_path).resolve()
        recorded = resumed.parent == folder.resolve() and resumed.name in self._record.names()
        return str(folder / resumed.name) if recorded else None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save every ``every_n_train_steps`` steps, directly after an optimizer step.

        A checkpoint from inside an accumulation window would lose the gradients accumulated so far.
        """
        stepped = trainer.global_step != self._step_of_last_batch
        self._step_of_last_batch = trainer.global_step
        if stepped:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Any]) -> None:
        """Save a checkpoint; Lightning calls this when one is due."""
        path = Path(self.format_checkpoint_name(monitor_candidates))
        try:
            on_rank_zero(lambda: self._make_room(path))
            save_together(trainer, path)
            self.best_model_path = on_rank_zero(lambda: self._written(path))
        except OSError as error:
            self._give_up(trainer, path, error)
            return
        self._failed_in_a_row = 0
        self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, str(path)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)

    def save_now(self, trainer: L.Trainer, *, again: bool = False) -> None:
        """Save the current step unless it is saved already; if ``again`` is true, overwrite it. A collective."""
        if again or self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _make_room(self, path: Path) -> None:
        """Make room in the quota for a checkpoint as large as the newest."""
        names, sizes = self._record.names(), self._record.sizes()
        if names:
            self._remove(self.retention.superfluous(names, sizes, self._record.scores(), room=sizes[names[-1]]))
        self._record.begin(path.name)

    def _written(self, path: Path) -> str:
        self._record.complete(path.name)
        return self._settle()

    def _settle(self) -> str:
        """Update the links, remove superfluous checkpoints, and return the path of the best or else the newest."""
        record, scores = self._record, self._record.scores()
        names = record.names()
        gone = self.retention.superfluous(names, record.sizes(), scores)
        best = [name for name in self.retention.ranked(scores) if name not in gone] if self.score_name else []
        _link(record.folder / LAST, names[-1])
        if best:
            _link(record.folder / BEST, best[0])
        self._remove(gone)
        return str(record.folder / (best or names[-1:])[0])

    def _remove(self, names: list[str]) -> None:
        for name in names:
            remove_checkpoint(self._record.folder / name)
            self._record.remove(name)

    def _give_up(self, trainer: L.Trainer, path: Path, error: OSError) -> None:
        self.failed_saves += 1
        self._failed_in_a_row += 1
        log_scalars(trainer, {"faults/failed_saves": self.failed_saves}, trainer.global_step)
        if self._failed_in_a_row > self.max_failed_saves:
            raise error
        previous = self._last_checkpoint_saved or trainer.ckpt_path
        stays = f"the newest complete one is still {previous}" if previous else "there is no earlier one"
        rank_zero_warn(f"The checkpoint {path} could not be written ({error.strerror or error}); {stays}. Training continues.")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the score of this step's checkpoint; save one if the step is not saved yet and is among the best.

        Raises:
            ValueError: Validation does not log the monitored value.
        """
        if self.score_name is None or connected(trainer).fast_dev_run or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if self.score_name not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(f"CompleteCheckpoint monitors {self.score_name!r}, which validation does not log; use one of: {known}")
        score = float(trainer.callback_metrics[self.score_name])
        if self._last_global_step_saved != trainer.global_step and on_rank_zero(lambda: self._is_good(score)):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        if self._last_global_step_saved == trainer.global_step:
            try:
                self.best_model_path = on_rank_zero(lambda: self._score(score))
            except OSError as error:
                rank_zero_warn(f"The score of {self._last_checkpoint_saved} could not be recorded ({error}). Training continues.")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the final state of training."""
        if trainer.global_step and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _is_good(self, score: float) -> bool:
        scores = self._record.scores()
        return "" in self.retention.ranked(scores | {"": score})[: self.retention.best]

    def _score(self, score: float) -> str:
        self._record.set_score(Path(self._last_checkpoint_saved).name, score)
        return self._settle()

    def newest(self, trainer: L.Trainer) -> Path | None:
        """Return the newest complete checkpoint of the folder, or None."""
        return newest_complete(self._folder(trainer))

    def best(self, trainer: L.Trainer) -> Path | None:
        """Return the checkpoint of the folder with the best recorded score, or None."""
        folder = self._folder(trainer)
        scores = CheckpointRecord(folder).scores() if self.score_name and folder.is_dir() else {}
        ranked = [name for name in self.retention.ranked(scores) if (folder / name).exists()]
        return folder / ranked[0] if ranked else None

    def _folder(self, trainer: L.Trainer) -> Path:
        """Return the folder that checkpoints are written to."""
        return Path(self._ModelCheckpoint__resolve_ckpt_dir(trainer))  # pyright: ignore[reportAttributeAccessIssue]  # a mangled name

    def _find_last_checkpoints(self, trainer: L.Trainer) -> set[str]:
        """Return the checkpoint that ``--ckpt_path last`` stands for."""
        newest = self.newest(trainer)
        return set() if newest is None else {str(newest)}


def _link(link: Path, name: str) -> None:
    """Point ``link`` to ``name`` in the same folder, atomically."""
    if link.is_dir() and not link.is_symlink():
        remove_checkpoint(link)
    temporary = link.with_name(f".{link.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.symlink_to(name)
        temporary.replace(link)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        rank_zero_warn(
            f"{link.parent} does not support symbolic links, so {link.name} is not written; use --ckpt_path last or full file names"
        )
