"""Sharded and in mixed precision, with a frozen bf16 backbone, adapters and clipped gradients: as under DDP, in training and validation."""

import lightning as L
import pytest
import torch
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from callbacks import EMAUpdate
from mimdit.backbone.lora import LoRA, is_adapter
from mimdit.distributed import FSDP2Strategy
from mimdit.distributed.fsdp2 import copies_of_weights, shard
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


def all_three(rank: int) -> tuple[dict, ...]:
    return mixed(rank, "ddp"), mixed(rank, "fsdp2"), mixed(rank, "bf16_gathers")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[tuple[dict, ...]]:
    return run_in_processes(all_three, tmp_path_factory.mktemp("ranks"))


def test_sharding_changes_nothing(ranks):
    for ddp, fsdp2, _ in ranks:
        torch.testing.assert_close(fsdp2["losses"], ddp["losses"], rtol=1e-4, atol=0)
        torch.testing.assert_close(fsdp2["average"], ddp["average"], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(fsdp2["restored"], ddp["restored"], rtol=0, atol=1e-2)


def test_gathers_in_bf16_change_the_losses_by_rounding_only(ranks):
    """Bounds: 1 % of each loss, 1e-4 on each averaged weight and 0.02 of a pixel in 0..1; bf16 rounds by 0.4 %."""
    for _, fsdp2, bf16 in ranks:
        assert any(not torch.equal(loss, fsdp2["losses"][name]) for name, loss in bf16["losses"].items())
        torch.testing.assert_close(bf16["losses"], fsdp2["losses"], rtol=1e-2, atol=0)
        torch.testing.assert_close(bf16["average"], fsdp2["average"], rtol=0, atol=1e-4)
        torch.testing.assert_close(bf16["restored"], fsdp2["restored"], rtol=0, atol=2e-2)


def test_gathers_in_bf16_without_autocast_are_refused():
    strategy = FSDP2Strategy(bf16_gathers=True)
    trainer = L.Trainer(strategy=strategy, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    strategy.model = L.LightningModule()
    with pytest.raises(ValueError, match="bf16_gathers needs trainer.precision: bf16-mixed"):
        strategy.setup(trainer)


@pytest.mark.parametrize("shard_over", ["rack", 0, -8])
def test_what_is_no_number_of_ranks_is_refused(shard_over):
    with pytest.raises(ValueError, match="neither all, node nor a positive number"):
        FSDP2Strategy(shard_over=shard_over)


@pytest.mark.parametrize(("shard_over", "copies"), [("all", 1), ("node", 4), (2, 16), (32, 1)])
def test_copies_are_counted(shard_over, copies):
    assert copies_of_weights(shard_over, world=32, ranks_of_node=8) == copies


def test_ranks_that_cannot_be_divided_are_refused():
    with pytest.raises(ValueError, match="shard_over=5 does not divide the 32 ranks"):
        copies_of_weights(5, world=32, ranks_of_node=8)


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
