"""When the moving average is updated and swapped."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import EMAUpdate
from mimdit.training.ema import ExponentialMovingAverage
from tests.callbacks.dummy import DummyRestorer, loader, trainer


def test_one_update_per_optimizer_step_with_accumulation(tmp_path):
    module = DummyRestorer()
    trainer(tmp_path, EMAUpdate(), max_steps=2, accumulate_grad_batches=3, num_sanity_val_steps=0).fit(module, loader())
    assert module.ema.calls == [1, 2]


def test_every_look_at_the_model_is_between_two_swaps(tmp_path):
    module, run = DummyRestorer(), trainer(tmp_path, EMAUpdate(), max_steps=2, val_check_interval=2)
    run.fit(module, loader(), loader())
    assert module.ema.calls == ["swap", "swap", 1, 2, "swap", "swap"]  # the sanity check first
    for look in (run.validate, run.test, run.predict):
        module.ema.calls.clear()
        look(module, loader(), **({} if look == run.predict else {"verbose": False}))
        assert module.ema.calls == ["swap", "swap"]


def test_it_can_be_told_to_evaluate_the_live_weights(tmp_path):
    module = DummyRestorer()
    trainer(tmp_path, EMAUpdate(evaluate_average=False)).validate(module, loader(), verbose=False)
    assert module.ema.calls == []


class Interrupted(DummyRestorer):
    """Fails in the midst of a validation."""

    def validation_step(self, batch: dict, batch_idx: int) -> dict:
        raise RuntimeError("pulled the plug")


def test_an_exception_swaps_back(tmp_path):
    module = Interrupted()
    with pytest.raises(RuntimeError, match="pulled the plug"):
        trainer(tmp_path, EMAUpdate()).validate(module, loader(), verbose=False)
    assert module.ema.calls == ["swap", "swap"]


class Averaged(DummyRestorer):
    """Has a real average, and notes the weight that validation sees."""

    def __init__(self) -> None:
        super().__init__(1.0, lr=0.5)
        self.ema = ExponentialMovingAverage(self, 0.9)
        self.seen: list[float] = []

    def validation_step(self, batch: dict, batch_idx: int) -> dict:
        self.seen.append(self.weight.item())
        return super().validation_step(batch, batch_idx)


def test_validation_sees_the_average_and_the_checkpoint_keeps_both(tmp_path):
    # The checkpoint callback stands first in the list and must still be called last.
    checkpoint, module = ModelCheckpoint(tmp_path, filename="it"), Averaged()
    run = trainer(tmp_path, checkpoint, EMAUpdate(), max_steps=6, num_sanity_val_steps=0, enable_checkpointing=True)
    run.fit(module, loader(), loader(batch_size=12))
    average, live = module.ema.average["weight"].item(), module.weight.item()
    assert module.seen == [average] and abs(average - live) > 1e-3
    saved = torch.load(checkpoint.best_model_path, weights_only=False)["state_dict"]
    assert (saved["weight"].item(), saved["ema.average.weight"].item()) == (live, average)


def test_a_module_without_average_is_left_alone(tmp_path):
    module = DummyRestorer()
    module.ema = None
    plain = DummyRestorer()
    trainer(tmp_path / "with", EMAUpdate(), max_steps=2).fit(module, loader(), loader())
    trainer(tmp_path / "without", max_steps=2).fit(plain, loader(), loader())
    assert module.ema is None
    torch.testing.assert_close(dict(module.named_parameters()), dict(plain.named_parameters()), rtol=0, atol=0)
