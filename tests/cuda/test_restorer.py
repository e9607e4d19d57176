"""The restorer on CUDA: a training step, autocast, checkpoints that change devices, and int8."""

from importlib.util import find_spec

import pytest
import torch

from mimdit import cli
from mimdit.restorer.restorer import Restorer
from tests.cuda.devices import DEVICE, assert_near, gradients, moved
from tests.tiny_models import randomize, tiny_batch, tiny_restorer
from tests.tiny_training import train

pytestmark = pytest.mark.cuda


def made(**options):
    restorer = tiny_restorer(
        conditioner={"estimate": True, "dim": 16, "hidden": 16, "num_experts": 4},
        balance={"balance": 0.5, "z": 0.1, "importance": 1.0, "specialization": 0.5},
        estimate_weight=1.0,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, eps=1e-3),
        **options,
    )
    randomize(restorer.conditioner, 0)
    restorer.log = lambda *args, **options: None
    return restorer


def step(device, precision="fp32"):
    restorer = moved(made(), device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        loss = restorer.training_step(moved(tiny_batch(4), device), 0)["loss"]
    loss.backward()
    return {"loss": loss.detach()} | gradients(restorer)


def test_a_training_step_has_the_loss_and_the_gradients_of_the_cpu():
    assert_near(step(DEVICE), step(torch.device("cpu")), 2e-3)


def test_under_autocast_the_loss_is_near_and_the_gradients_are_finite_and_fp32():
    found, expected = step(DEVICE, "bf16"), step(torch.device("cpu"))
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=0.03)
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in found.values())


@pytest.mark.parametrize(("first", "then"), [(DEVICE.type, "cpu"), ("cpu", DEVICE.type)], ids=["saved", "loaded"])
def test_a_checkpoint_goes_on_upon_the_other_device(tmp_path, first, then):
    """Two steps on one device and two on the other are four on the CPU."""
    batches = [tiny_batch(seed=seed) for seed in range(2)]
    train(made(), batches, accelerator=first).save_checkpoint(tmp_path / "run.ckpt")
    again = train(made(), batches, accelerator=then, ckpt_path=str(tmp_path / "run.ckpt"), max_epochs=2)
    assert again.global_step == 4 and again.strategy.root_device.type == then
    alone = train(made(), batches, accelerator="cpu", max_epochs=2)
    found, expected = (dict(run.lightning_module.conditioner.named_parameters()) for run in (again, alone))
    assert_near(found, expected, 1e-3)


@torch.no_grad()
def test_a_saved_folder_restores_upon_the_device_as_upon_the_cpu(tmp_path):
    restorer = made()
    moved(restorer).save_pretrained(tmp_path)
    images = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    backbone = restorer.backbone.cpu()
    expected = Restorer.from_pretrained(tmp_path, backbone=backbone).restore(images, steps=3)
    found = moved(Restorer.from_pretrained(tmp_path, backbone=moved(backbone))).restore(images, steps=3)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


@pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao; pip install 'mimdit[int8]'")
@torch.no_grad()
def test_an_int8_export_restores_upon_the_device_as_upon_the_cpu(tmp_path):
    cli.main(["export", "embedded", str(tmp_path / "int8"), "--complete", "--int8"])
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected, found = (Restorer.from_pretrained(tmp_path / "int8").to(device).restore(images, steps=2) for device in ("cpu", DEVICE))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
