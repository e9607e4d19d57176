"""CompleteCheckpoint: checkpoints among which a restarted run finds the newest complete one."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.tensorboard import void_what_was_lost
from mimdit.distributed.checkpoint_files import newest_complete


class CompleteCheckpoint(ModelCheckpoint):
    """ModelCheckpoint of the newest ``keep`` states, from which ``--ckpt_path last`` takes the newest complete one.

    Lightning removes an older checkpoint after the newer one is saved, and our strategies and `WholeCheckpointIO` save it whole or not at
    all, so there is a complete one at every moment. A run killed while writing leaves a hidden ``.….writing`` behind, which the next save
    under that name removes. With no checkpoint yet, ``--ckpt_path last`` starts from the beginning, so a restarted job needs no other
    command. ``last.ckpt`` is a link to the newest, for other commands.

    Args:
        every_n_train_steps: Optimiser steps between two.
        keep: How many; -1 for all.
        dirpath: Folder they are in; None for ``checkpoints`` in the logger's.
        filename: Their names, without ``.ckpt``.
    """

    def __init__(
        self, every_n_train_steps: int = 1000, *, keep: int = 2, dirpath: str | None = None, filename: str = "step={step:07d}"
    ) -> None:
        if keep == 0 or keep < -1:
            raise ValueError(f"keep={keep} would leave no checkpoint to go on from; use 1 or more, or -1 for all")
        super().__init__(
            dirpath,
            filename,
            monitor="step",
            mode="max",
            save_top_k=keep,
            save_last="link",
            every_n_train_steps=every_n_train_steps,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that resumes makes the steps after its checkpoint again: take them out of TensorBoard's curves."""
        super().on_train_start(trainer, pl_module)
        void_what_was_lost(trainer)

    def save_now(self, trainer: L.Trainer, *, again: bool = False) -> None:
        """Save the present step if it is not saved yet; ``again`` saves it anyhow, over what is there. Every rank calls this."""
        candidates = self._monitor_candidates(trainer)
        if self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, candidates)
        elif again:
            self._save_checkpoint(trainer, self._last_checkpoint_saved)
        self._save_last_checkpoint(trainer, candidates)

    def _should_remove_checkpoint(self, trainer: L.Trainer, previous: str, current: str) -> bool:
        """Lightning would spare the one that a run resumed from for ever: each restart would leave one behind."""
        return previous != current and Path(self.dirpath).absolute() in Path(previous).absolute().parents

    def newest(self, trainer: L.Trainer) -> Path | None:
        """The newest complete checkpoint there is."""
        return newest_complete(Path(self._ModelCheckpoint__resolve_ckpt_dir(trainer)))

    def _find_last_checkpoints(self, trainer: L.Trainer) -> set[str]:
        """Where Lightning looks for ``last``."""
        newest = self.newest(trainer)
        return set() if newest is None else {str(newest)}
