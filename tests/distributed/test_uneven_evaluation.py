"""Sharded ranks whose images differ in size and count validate, test and predict to the end, and restore what one process restores."""

import faulthandler
from functools import partial

import lightning as L
import pytest
import torch
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from callbacks import CompleteCheckpoint, EMAUpdate, Preemption
from mimdit.core.batch import Batch
from mimdit.distributed import FSDP2Strategy
from mimdit.restorer.restorer import Restorer
from tests.distributed.made_runs import ADAMW, Losses, make_restorer, of_rank
from tests.processes import run_in_processes
from tests.tiny_models import tiny_batch

pytestmark = pytest.mark.long

LIMIT = 150
"""Seconds after which a rank that hangs ends the test."""
STEPS = 3


def tiled_restorer(optimizer=ADAMW) -> Restorer:
    return make_restorer(optimizer, tile=32, ema_decay=0.5)


def images_of(rank: int) -> list[Batch]:
    """One image more on each rank, of one tile or several."""
    return [tiny_batch(1, size=16 if (rank + number) % 2 else 48, seed=10 * rank + number) for number in range(rank + 1)]


class Restored(L.Callback):
    """What each evaluation made."""

    def __init__(self) -> None:
        self.images: dict[str, list[torch.Tensor]] = {"validate": [], "test": [], "predict": []}

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.images["validate"].append(outputs["restored"])
        assert not any(isinstance(weight, DTensor) for weight in pl_module.conditioner.parameters())

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.images["test"].append(outputs["restored"])

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.images["predict"].append(outputs)


def evaluate(rank: int, world: int, shard_over: int | str, folder: str) -> dict:
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options = silent | {"max_epochs": 1, "accelerator": "cpu", "devices": world, "use_distributed_sampler": False}
    images = DataLoader(images_of(rank), batch_size=None)
    found = {}
    restorer, restored = tiled_restorer(), Restored()
    trainer = L.Trainer(strategy=FSDP2Strategy(shard_over=shard_over), callbacks=[restored], **options)
    trainer.validate(restorer, images, verbose=False)
    trainer.test(restorer, images, verbose=False)
    trainer.predict(restorer, images, return_predictions=False)
    found |= restored.images
    for name, validated in (("alone", None), ("validated", images)):
        restorer, losses = tiled_restorer(), Losses()
        saver = CompleteCheckpoint(1000, dirpath=f"{folder}/{name}")
        callbacks = [EMAUpdate(), losses, saver, Preemption()]  # ranks exchange signals in validations too
        run = options | {"enable_checkpointing": True, "val_check_interval": 1, "default_root_dir": folder}
        trainer = L.Trainer(strategy=FSDP2Strategy(shard_over=shard_over), callbacks=callbacks, **run)
        trainer.fit(restorer, DataLoader(of_rank(rank, world, 1, STEPS), batch_size=None), validated)
        found[name] = losses.steps(1)["train/loss"]
        assert all(isinstance(weight, DTensor) for weight in restorer.conditioner.parameters())
    faulthandler.cancel_dump_traceback_later()
    return found


@pytest.mark.parametrize(("world", "shard_over"), [(2, "all"), (4, "all"), (4, 2)], ids=["2", "4", "2x2"])
def test_ranks_with_other_images_end_together(tmp_path, world, shard_over):
    ranks = run_in_processes(partial(evaluate, world=world, shard_over=shard_over, folder=str(tmp_path / "run")), tmp_path, world)
    alone = tiled_restorer().eval()
    for rank, found in enumerate(ranks):
        with torch.no_grad():
            expected = [alone.restore(batch["lq"]) for batch in images_of(rank)]
        for evaluation in ("validate", "test", "predict"):
            torch.testing.assert_close(found[evaluation], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(found["validated"], found["alone"], rtol=1e-6, atol=0)
