"""Validation that comes between a checkpoint and the next batch: find it, and make a resumed run repeat it."""

from __future__ import annotations

from typing import Any

import lightning as L


def validation_is_due(trainer: L.Trainer) -> bool:
    """Return true if Lightning validates before the next batch; a run resumed from a checkpoint saved now would skip that validation."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None, "the loop has fetched a batch"
    return trainer.enable_validation and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def validate_on_resuming(checkpoint: dict[str, Any]) -> None:
    """Change a checkpoint so that a run resumed from it starts with the validation that was due.

    Lightning repeats a validation whose first batch was being processed: ``evaluation_loop.EvaluationLoop.update_restart_stage``.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    ready = max(1, progress["total"]["ready"])
    progress["total"] |= {"ready": ready, "started": ready, "processed": ready - 1, "completed": ready - 1}
    progress["current"] |= dict.fromkeys(("ready", "started", "processed", "completed"), 0)
