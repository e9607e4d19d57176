"""CompleteCheckpoint: checkpoints among which a restarted run finds the newest complete one."""

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

from callbacks.loggers import log_scalars, void_what_was_lost
from callbacks.retention import Retention, Shelf
from mimdit.core.collectives import on_rank_zero, save_together
from mimdit.distributed.checkpoint_files import newest_complete, remove_checkpoint, tidy

LAST, BEST = "last.ckpt", "best.ckpt"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems without links answer."""


class CompleteCheckpoint(ModelCheckpoint):
    """ModelCheckpoint of the newest ``keep`` states and the ``keep_best`` best, from which ``--ckpt_path last`` takes the newest complete.

    Our strategies and `WholeCheckpointIO` save a checkpoint whole or not at all, and an older one is removed after the newer one is saved,
    so there is a complete one at every moment. What a killed run left half written is removed when the next one starts to train. With no
    checkpoint yet, ``--ckpt_path last`` starts from the beginning, so a restarted job needs no other command. The links ``last.ckpt`` and
    ``best.ckpt`` follow the newest and the best. Only checkpoints that this callback wrote are ever removed.

    One that cannot be written, for example because the disk is full, is given up on all ranks: the previous one stays, the run goes on,
    warns, and counts it as ``faults/failed_saves``. (ours)

    Args:
        every_n_train_steps: Optimiser steps between two; what training ends with is saved, too.
        keep: How many of the newest; -1 for all.
        monitor: Logged value of which the best are kept, too, such as ``val/psnr_output``; looked at after every validation, and
            what is among the best is saved though its turn has not come. None for no best.
        mode: Whether ``max`` or ``min`` of it is best.
        keep_best: How many of the best.
        max_gigabytes: Most GB (10^9 bytes) of all together, also while one is written: the oldest go first, then the worst of the best, but
            the newest always stays, so at least two must fit. None for no limit.
        max_failed_saves: How many in a row may fail; one more stops the run.
        dirpath: Folder they are in; None for ``checkpoints`` in the logger's.
        filename: Their names, without ``.ckpt``.

    Raises:
        ValueError: They would leave no checkpoint, or a limit is out of range.
    """

    def __init__(
        self, every_n_train_steps: int = 1000, *, keep: int = 2, monitor: str | None = None, mode: str = "max", keep_best: int = 1,
        max_gigabytes: float | None = None, max_failed_saves: int = 10, dirpath: str | None = None, filename: str = "step={step:07d}",
    ) -> None:  # fmt: skip
        if keep == 0 or keep < -1:
            raise ValueError(f"keep={keep} would leave no checkpoint to go on from; use 1 or more, or -1 for all")
        if keep_best < 1 or mode not in ("min", "max"):
            raise ValueError(f"keep_best={keep_best} must be at least 1, and mode={mode!r} min or max; for no best leave monitor at null")
        if max_gigabytes is not None and max_gigabytes <= 0 or max_failed_saves < 0:
            raise ValueError(f"max_gigabytes={max_gigabytes} must be above 0 and max_failed_saves={max_failed_saves} at least 0")
        # Which ones stay is decided here: Lightning saves, and removes none.
        super().__init__(
            dirpath,
            filename,
            save_top_k=-1,
            every_n_train_steps=every_n_train_steps,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        most = math.inf if max_gigabytes is None else max_gigabytes * 1e9
        self.score_name, self.retention = monitor, Retention(keep, keep_best if monitor else 0, mode, most)
        self.max_failed_saves = max_failed_saves
        self.failed_saves = 0
        """Checkpoints of this run that could not be written."""
        self._failed_in_a_row = 0
        self._shelf: Shelf | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over what an earlier run left, once every rank has read what it goes on from.

        The steps after its checkpoint are made again: they are taken out of TensorBoard's curves.
        """
        super().on_train_start(trainer, pl_module)
        void_what_was_lost(trainer)
        if not trainer.fast_dev_run:
            trainer.strategy.barrier()
            on_rank_zero(self._take_over)

    def _take_over(self) -> None:
        folder = Path(self.dirpath)
        if folder.is_dir():
            tidy(folder)
        self._shelf = Shelf(folder)

    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Any]) -> None:
        """Where Lightning saves when it is time."""
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
        """Save the present step if it is not saved yet; ``again`` saves it anyhow, over what is there. Every rank calls this."""
        if again or self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _make_room(self, path: Path) -> None:
        """Make room in the quota for one as large as the newest."""
        names, sizes = self._shelf.names(), self._shelf.sizes()
        if names:
            self._remove(self.retention.superfluous(names, sizes, self._shelf.scores(), room=sizes[names[-1]]))
        self._shelf.announce(path.name)

    def _written(self, path: Path) -> str:
        self._shelf.written(path.name)
        return self._settle()

    def _settle(self) -> str:
        """Let the links follow, remove what need not stay, and return the best, or else the newest."""
        shelf, scores = self._shelf, self._shelf.scores()
        names = shelf.names()
        gone = self.retention.superfluous(names, shelf.sizes(), scores)
        best = [name for name in self.retention.ranked(scores) if name not in gone] if self.score_name else []
        _link(shelf.folder / LAST, names[-1])
        if best:
            _link(shelf.folder / BEST, best[0])
        self._remove(gone)
        return str(shelf.folder / (best or names[-1:])[0])

    def _remove(self, names: list[str]) -> None:
        for name in names:
            remove_checkpoint(self._shelf.folder / name)
            self._shelf.forget(name)

    def _give_up(self, trainer: L.Trainer, path: Path, error: OSError) -> None:
        self.failed_saves += 1
        self._failed_in_a_row += 1
        log_scalars(trainer, {"faults/failed_saves": self.failed_saves}, trainer.global_step)
        if self._failed_in_a_row > self.max_failed_saves:
            raise error
        previous = self._last_checkpoint_saved or trainer.ckpt_path
        stays = f"the newest complete one is still {previous}" if previous else "there is none yet"
        rank_zero_warn(f"The checkpoint {path} could not be written ({error.strerror or error}); {stays}. Training goes on.")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note how good the checkpoint of this step is; save one if there is none and it is among the best."""
        if self.score_name is None or trainer.fast_dev_run or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if self.score_name not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(f"CompleteCheckpoint monitors {self.score_name!r}, which validation does not log; it logs {known}")
        score = float(trainer.callback_metrics[self.score_name])
        if self._last_global_step_saved != trainer.global_step and on_rank_zero(lambda: self._is_good(score)):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        if self._last_global_step_saved == trainer.global_step:
            try:
                self.best_model_path = on_rank_zero(lambda: self._score(score))
            except OSError as error:
                rank_zero_warn(f"How good {self._last_checkpoint_saved} is could not be noted ({error}). Training goes on.")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what training ended with."""
        if trainer.global_step and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _is_good(self, score: float) -> bool:
        scores = self._shelf.scores()
        return "" in self.retention.ranked(scores | {"": score})[: self.retention.best]

    def _score(self, score: float) -> str:
        self._shelf.score(Path(self._last_checkpoint_saved).name, score)
        return self._settle()

    def newest(self, trainer: L.Trainer) -> Path | None:
        """The newest complete checkpoint there is."""
        return newest_complete(Path(self._ModelCheckpoint__resolve_ckpt_dir(trainer)))

    def _find_last_checkpoints(self, trainer: L.Trainer) -> set[str]:
        """Where Lightning looks for ``last``."""
        newest = self.newest(trainer)
        return set() if newest is None else {str(newest)}


def _link(link: Path, name: str) -> None:
    """Let ``link`` lead to ``name`` beside it; at no moment is there none."""
    if link.is_dir() and not link.is_symlink():
        remove_checkpoint(link)
    temporary = link.with_name(f".{link.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.symlink_to(name)
        temporary.replace(link)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        rank_zero_warn(f"{link.parent} is on a file system without links, so there is no {link.name}: use --ckpt_path last, or full names")
