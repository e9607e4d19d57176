"""Losses of a training step, and the parameters that they reach."""

import pytest
import torch

from mimdit.backbone import LoRA
from mimdit.core.batch import ATOMS
from mimdit.core.rng import keyed_generator
from mimdit.restorer.flow_loss import flow_loss
from tests.tiny_models import ARCHITECTURE, PIXART, randomize, tiny_batch, tiny_restorer
from tests.tiny_training import gradients, train

DEEP = {"backbone": {"architecture": ARCHITECTURE | {"num_layers": 4}}, "conditioner": {"num_layers": 4, "num_blocks": 2}}
ESTIMATE = {"conditioner": {"estimate": True, "tone_powers": [0, 0.4, 1, 2]}, "estimate_weight": 1.0}
FROM_ESTIMATE = ESTIMATE | {"flow": {"source": "estimate", "start": "estimate", "sigma_start": 0.3}}


def living(**options):
    """A restorer with no zero-initialized layer left."""
    restorer = tiny_restorer(**options)
    randomize(restorer.conditioner, 0)
    return restorer


@pytest.mark.parametrize("norm", ["mse", "rmse", "psnr"])
@pytest.mark.parametrize("options", [{}, FROM_ESTIMATE])
def test_flow_loss_is_the_velocity_error_of_each_image_on_its_path(options, norm):
    restorer, batch = living(**options, flow_norm=norm, seed=4), tiny_batch(3)
    clean = restorer.backbone.encode(batch["gt"])
    degraded = restorer.backbone.encode(batch["lq"])
    conditioning = restorer.conditioner(degraded)
    errors = []
    for index, key in enumerate(batch["key"]):
        generator = keyed_generator(4, key)
        sigma = restorer.flow.draw_sigma(generator)
        noise, x = torch.randn(3, 16, 16, generator=generator), clean[index]
        target, start = noise - x, restorer.flow.sigma_start
        if restorer.flow.source == "estimate":
            target = ((1 - start) * conditioning.estimate[index].detach() + start * noise - x) / start
        residuals = restorer.conditioner.timestep_scale([r[index : index + 1] for r in conditioning.residuals], sigma[None])
        found = restorer.backbone.velocity((x + sigma * target)[None], sigma[None], residuals)[0]
        errors.append((found - target).square().mean())
    errors = torch.stack(errors)
    expected = {"mse": errors, "rmse": (errors + 1e-6).sqrt(), "psnr": 0.05 * (errors + 4e-4).log()}[norm].mean()
    torch.testing.assert_close(flow_loss(restorer, degraded, clean, conditioning, batch["key"]), expected, rtol=1e-4, atol=1e-5)


def test_total_loss_is_the_sum_of_those_logged_by_name():
    restorer = living(**ESTIMATE, balance={"specialization": 0.5}, flow_weight=3.0, harm_weight=2.0)
    trainer = train(restorer, [tiny_batch()])
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    parts = {name.removeprefix("train/loss/"): value for name, value in logged.items() if name.startswith("train/loss/")}
    assert set(parts) == {"flow", "estimate", "harm", "balance", "z", "importance", "specialization"}
    assert logged["train/loss"] == pytest.approx(sum(parts.values()), rel=1e-5)


def test_a_gated_estimate_is_not_trained_on_what_needs_nothing():
    """The gradient is that of the degraded image alone, and with only clean images every gradient of the estimate's loss is zero."""
    options = {**ESTIMATE, "flow_weight": 0.0, "gate_estimate": "labels", "balance": {"balance": 0, "z": 0, "importance": 0}}
    batch = tiny_batch(2)
    batch["degradation"] = torch.zeros_like(batch["degradation"])
    [clean] = gradients(living(**options), [batch])
    assert clean and all(gradient is not None and not gradient.any() for gradient in clean.values())
    batch["degradation"][0, ATOMS.index("haze")] = 1.0
    [found] = gradients(living(**options), [batch])
    [single] = gradients(living(**options), [{name: value[:1] for name, value in batch.items()}])
    assert max(gradient.abs().max() for gradient in single.values()) > 1e-4
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, single[name] / 2, rtol=1e-3, atol=1e-6)


ABLATIONS = {
    "paper": {},
    "inter sparse": {"conditioner": {"inter": "sparse"}},
    "inter uniform": {"conditioner": {"inter": "uniform"}},
    "intra dense": {"conditioner": {"intra": "dense"}},
    "intra none": {"conditioner": {"intra": "none"}},
    "neither gate": {"conditioner": {"inter": "uniform", "intra": "none"}},
    "top 1": {"conditioner": {"top_k": 1}},
    "one expert": {"conditioner": {"num_experts": 1, "top_k": 1}},
    "one group": {"conditioner": {"groups": ["swin"]}},
    "homogeneous": {"conditioner": {"groups": ["se"] * 4}},
    "deep": DEEP,
    "no routing losses": {"balance": {"balance": 0, "z": 0, "importance": 0}},
    "with estimate": ESTIMATE,
    "estimate alone": ESTIMATE | {"flow_weight": 0.0},
    "estimate gated": ESTIMATE | {"flow_weight": 0.0, "gate_estimate": "labels"},
    "estimate, cleaned images": ESTIMATE | {"flow_weight": 0.0, "cleaned_share": 0.5},
    "idle estimate": {"conditioner": {"estimate": True, "tone_powers": [0, 1]}},
    "from estimate": FROM_ESTIMATE,
    "from estimate, untrained": FROM_ESTIMATE | {"estimate_weight": 0.0},
    "trainable backbone": {"backbone": {"trainable": True}},
    "adapters": {"backbone": {"lora": LoRA(rank=2)}},
    "adapters, estimate alone": ESTIMATE | {"flow_weight": 0.0, "backbone": {"lora": LoRA(rank=2)}},
    "PixArt": {"backbone": {"architecture": PIXART, "trainable": True}},
    "trainable, estimate alone": ESTIMATE | {"flow_weight": 0.0, "backbone": {"trainable": True}},
}


@pytest.mark.parametrize("options", ABLATIONS.values(), ids=ABLATIONS)
def test_every_trainable_parameter_has_a_gradient_in_every_step(options):
    """As DDP demands unless it searches for unused parameters; accumulation included."""
    restorer = tiny_restorer(**options)
    steps = gradients(restorer, [tiny_batch(seed=seed) for seed in range(3)], 2)
    assert len(steps) == 2
    for found in steps:
        assert len(found) > 10 and [name for name, gradient in found.items() if gradient is None] == []


def test_crops_beyond_the_backbones_positions_are_named():
    with pytest.raises(ValueError, match="crops of 80x80 latent pixels exceed 64, the largest side .* train on smaller crops"):
        living().training_step(tiny_batch(1, 80), 0)
