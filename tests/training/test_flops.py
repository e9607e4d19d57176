"""FLOPs against closed forms and against figures that were counted elsewhere."""

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from torch import nn
from torch.utils.checkpoint import checkpoint

from mimdit.backbone import flux
from mimdit.training.flops import StepFlops, count_flops, meta_twin, restoration_flops, step_flops, training_flops
from tests.tiny_models import tiny_backbone, tiny_batch, tiny_restorer

SD3_MEDIUM = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24, "attention_head_dim": 64,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}  # fmt: skip
SD35_MEDIUM = SD3_MEDIUM | {"pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"}


def step(module: nn.Module, *inputs: torch.Tensor) -> StepFlops:
    return step_flops(lambda: module(*inputs).square().sum())


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_linear(device):
    with torch.device(device):
        linear, rows = nn.Linear(5, 7), torch.ones(3, 5)
        assert step(linear, rows) == StepFlops(2 * 3 * 5 * 7, 2 * 3 * 5 * 7)  # no gradient of the input
        assert step(linear, rows.requires_grad_()) == StepFlops(210, 2 * 210)
        assert step(linear.requires_grad_(False), rows) == StepFlops(210, 210)  # frozen: the input's alone


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_convolution_with_groups(device, groups):
    with torch.device(device):
        convolution, images = nn.Conv2d(8, 16, 3, padding=1, groups=groups), torch.ones(2, 8, 6, 5, requires_grad=True)
        forward = 2 * 2 * 30 * 16 * (8 // groups) * 9
        assert step(convolution, images) == StepFlops(forward, 2 * forward)
        transposed = nn.ConvTranspose2d(8, 16, 2, stride=2, groups=groups)
        forward = 2 * 2 * 30 * 8 * (16 // groups) * 4
        assert step(transposed, images) == StepFlops(forward, 2 * forward)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_attention(device):
    query, key, value = (torch.ones(2, 3, count, width, device=device, requires_grad=True) for count, width in ((10, 4), (6, 4), (6, 4)))
    forward = 2 * 2 * 3 * 10 * 6 * (4 + 4)
    flops = step_flops(lambda: nn.functional.scaled_dot_product_attention(query, key, value).square().sum())
    assert flops == StepFlops(forward, 2 * forward)


@pytest.mark.parametrize("device, dtype", [("meta", torch.bfloat16), ("cpu", torch.float32)])
@pytest.mark.parametrize("ends", [[3, 3, 12], [0, 0, 12]])
def test_grouped_product_counts_every_row_once(device, dtype, ends):
    rows = torch.ones(12, 16, device=device, dtype=dtype, requires_grad=True)
    weight = torch.ones(3, 16, 8, device=device, dtype=dtype, requires_grad=True)
    offsets = torch.tensor(ends, device=device, dtype=torch.int32)
    flops = step_flops(lambda: nn.functional.grouped_mm(rows, weight, offs=offsets).square().sum())
    assert flops == StepFlops(2 * 12 * 16 * 8, 2 * 2 * 12 * 16 * 8)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_what_a_checkpoint_recomputes_is_not_counted(use_reentrant):
    layers, rows = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 5)), torch.ones(3, 5, requires_grad=True)
    plain = step(layers, rows)
    assert step_flops(lambda: checkpoint(layers, rows, use_reentrant=use_reentrant).square().sum()) == plain
    assert count_flops(lambda: checkpoint(layers, rows, use_reentrant=use_reentrant).square().sum().backward()) > plain.total


def test_compiled_modules_are_counted():
    linear = nn.Linear(5, 7)
    linear.compile(backend="eager")
    assert count_flops(lambda: linear(torch.ones(3, 5))) == 210


# Forward, and forward + backward to residuals after the blocks, in TFLOP, at 512 px.
@pytest.mark.parametrize(
    "architecture, tokens, forward, step", [(SD3_MEDIUM, 77, 1.67, 3.45), (SD3_MEDIUM, 333, 2.11, 4.38), (SD35_MEDIUM, 77, 2.01, 4.17)]
)
def test_the_real_transformers(architecture, tokens, forward, step):
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(**architecture).requires_grad_(False)
        inputs = torch.ones(1, 16, 64, 64), torch.ones(1, tokens, 4096), torch.ones(1, 2048), torch.ones(1)
        residuals = [torch.ones(1, 1024, 1536, requires_grad=True) for _ in range(6)]
    flops = step_flops(lambda: transformer(*inputs, residuals, return_dict=False)[0].sum())
    assert flops.forward / 1e12 == pytest.approx(forward, rel=0.01)
    assert flops.total / 1e12 == pytest.approx(step, rel=0.01)


def test_flux_at_full_size_costs_what_its_blocks_cost():
    """All 57 blocks have 12 D^2 weights for a token, of text or image, and an attention over both."""
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(guidance_embeds=True).requires_grad_(False)
        latents, text, pooled, one = torch.ones(1, 16, 64, 64), torch.ones(1, 512, 4096), torch.ones(1, 768), torch.ones(1)
        residuals = [torch.ones(1, 1024, 3072) for _ in range(20)]
    width, tokens = 3072, 1024 + 512
    blocks = 57 * (2 * 12 * width**2 * tokens + 4 * tokens**2 * width)
    assert count_flops(lambda: flux.predict(transformer, latents, one, text, pooled, residuals, 3.5)) == pytest.approx(blocks, rel=0.002)


def test_a_training_step_costs_on_the_meta_device_what_it_costs_here():
    restorer, batch = tiny_restorer(estimate_weight=1.0, conditioner={"estimate": True, "tone_powers": [1.0]}), tiny_batch(2, 32)
    restorer.log = lambda *args, **options: None
    assert training_flops(restorer, batch) == step_flops(lambda: restorer.training_step(batch, 0)["loss"])


def test_a_frozen_backbone_costs_no_gradient_of_its_weights():
    frozen, trained = (training_flops(tiny_restorer(backbone={"trainable": trainable}), tiny_batch(2, 32)) for trainable in (False, True))
    assert frozen.forward == trained.forward and frozen.backward < 0.8 * trained.backward


def test_pretraining_costs_a_step_of_the_transformer_alone():
    backbone = tiny_backbone(trainable=True)
    flops = training_flops(backbone, tiny_batch(2, 32))
    assert flops.forward == count_flops(lambda: backbone.velocity(torch.ones(2, 3, 32, 32), torch.ones(2)))


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_a_restoration_costs_its_steps_and_the_conditioner_once(steps, sampler):
    restorer, images = tiny_restorer(flow={"sampler": sampler, "start": "degraded"}), torch.rand(1, 3, 32, 32)
    assert restoration_flops(restorer, images, steps) == count_flops(lambda: restorer.restore(images, steps))


def test_the_twin_has_no_memory_and_leaves_the_model_alone():
    restorer = tiny_restorer()
    before = {name: tensor.clone() for name, tensor in restorer.state_dict().items()}
    twin = meta_twin(restorer)
    assert all(tensor.is_meta for tensor in [*twin.parameters(), *twin.buffers()])
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in restorer.parameters()]
    training_flops(twin, tiny_batch(2, 32))
    assert all(torch.equal(tensor, before[name]) for name, tensor in restorer.state_dict().items())
    assert all(parameter.grad is None for parameter in restorer.parameters())
