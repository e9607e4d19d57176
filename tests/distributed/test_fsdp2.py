"""Sharded and in mixed precision, with a frozen bf16 backbone, adapters and clipped gradients: as under DDP, in training and validation."""

import lightning as L
import pytest
import torch
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from callbacks import EMAUpdate
from mimdit.backbone.lora import LoRA, is_adapter
from mimdit.distributed.fsdp2 import shard
from tests.distributed.made_runs import ADAMW, Losses, make_restorer, of_rank, settings
from tests.processes import run_in_processes
from tests.tiny_models import tiny_restorer
from tests.tiny_training import train

STEPS = 4


class Restored(L.Callback):
    """What validation made."""

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.images = outputs["restored"]


def mixed(rank: int, strategy: str) -> dict:
    restorer = make_restorer(ADAMW, backbone={"dtype": "bfloat16", "lora": LoRA(rank=2)}, ema_decay=0.5)
    losses, restored = Losses(), Restored()
    options = {"precision": "bf16-mixed", "gradient_clip_val": 0.05, "callbacks": [EMAUpdate(), losses, restored]}
    trainer = train(restorer, of_rank(rank, 2, 2, STEPS), 2, **settings(strategy, 2), **options)
    trainer.validate(restorer, DataLoader(of_rank(rank, 2, 1, 1), batch_size=None), verbose=False)
    averages = restorer.ema.average.items()
    live = dict(restorer.named_parameters())
    if strategy == "fsdp2":
        for name, parameter in live.items():
            assert isinstance(parameter, DTensor) or not (parameter.requires_grad or name.startswith("backbone.transformer")), name
            frozen = name.startswith("backbone.transformer") and not is_adapter(name)
            assert parameter.dtype == (torch.bfloat16 if frozen else torch.float32), name
        assert sum(parameter.to_local().numel() for parameter in live.values() if isinstance(parameter, DTensor)) < 0.7 * sum(
            parameter.numel() for parameter in live.values()
        )
        state = trainer.strategy.lightning_module_state_dict()
        lacking = {name: tensor for name, tensor in state.items() if not name.startswith("conditioner.embed")}
        with pytest.raises(RuntimeError, match="Missing key.*conditioner.embed"):
            trainer.strategy.load_model_state_dict({"state_dict": lacking})
    average = {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in averages}
    return {"losses": losses.steps(2), "restored": restored.images, "average": {name: value.detach() for name, value in average.items()}}


def both(rank: int) -> tuple[dict, dict]:
    return mixed(rank, "ddp"), mixed(rank, "fsdp2")


def test_sharding_changes_nothing(tmp_path):
    for ddp, fsdp2 in run_in_processes(both, tmp_path):
        torch.testing.assert_close(fsdp2["losses"], ddp["losses"], rtol=1e-4, atol=0)
        torch.testing.assert_close(fsdp2["average"], ddp["average"], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(fsdp2["restored"], ddp["restored"], rtol=0, atol=1e-2)


def test_a_module_that_names_no_units_is_refused():
    with pytest.raises(ValueError, match="shard_units"):
        shard(L.LightningModule(), None)


def test_units_are_apart_and_leave_the_routers_out():
    restorer = tiny_restorer(conditioner={"num_blocks": 1, "estimate": True})
    names = {parameter: name for name, parameter in restorer.named_parameters()}
    units = [{names[parameter] for part in unit for parameter in part.parameters()} for unit in restorer.shard_units()]
    inside = set().union(*units)
    blocks = [unit for unit in units if any(".transformer_blocks." in name for name in unit)]
    assert not any(".router." in name for name in inside if not name.startswith("ema."))
    assert any(".experts." in name for name in inside) and {name for name in names.values() if name.startswith("ema.")} in units
    assert all(name in inside for name in names.values() if name.startswith("backbone.transformer."))
    assert len(blocks) == restorer.backbone.num_layers + 1  # the last holds what is around them, and them in it
