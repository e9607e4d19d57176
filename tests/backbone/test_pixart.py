"""PixArt as a backbone: another family, unforked."""

import pytest
import torch

from mimdit.backbone import DiTBackbone
from tests.tiny_models import PIXART, tiny_backbone, tiny_batch, tiny_restorer
from tests.tiny_training import gradients, train

SIGMA = torch.tensor([0.2, 0.9])
TOLD_ITS_SIZE = PIXART | {"use_additional_conditions": True, "num_attention_heads": 3, "cross_attention_dim": 24}


def latents(height=16, width=24):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def residuals(count, tokens=24, width=16):
    return [torch.randn(2, tokens, width, generator=torch.Generator().manual_seed(index)) for index in range(count)]


def test_the_velocity_is_the_first_half_of_its_answer_at_a_thousand_sigma():
    backbone = tiny_backbone(architecture=PIXART)
    prompt = torch.zeros(2, 1, 8)
    answer = backbone.transformer(latents(), prompt, torch.tensor([200.0, 900.0]), {"resolution": None, "aspect_ratio": None}).sample
    assert answer.shape == (2, 6, 16, 24)
    torch.testing.assert_close(backbone.velocity(latents(), SIGMA), answer[:, :3], rtol=1e-5, atol=1e-5)


def test_the_image_size_input_is_in_pixels():
    backbone = tiny_backbone(architecture=TOLD_ITS_SIZE)
    size = {"resolution": torch.tensor([[128.0, 192.0]]).repeat(2, 1), "aspect_ratio": torch.full((2, 1), 128 / 192)}
    answer = backbone.transformer(latents(), torch.zeros(2, 1, 8), torch.tensor([200.0, 900.0]), size).sample
    torch.testing.assert_close(backbone.velocity(latents(), SIGMA), answer[:, :3], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(backbone.velocity(latents(), SIGMA), backbone.velocity(latents(24, 16), SIGMA).transpose(2, 3), rtol=1e-2)


@torch.no_grad()
def steered_by_hand(model, given):
    """The model's parts one after the other, with residuals between the blocks."""
    tokens = model.pos_embed(latents())
    time, embedded = model.adaln_single(SIGMA * 1000, None, batch_size=2, hidden_dtype=torch.float32)
    text = model.caption_projection(torch.zeros(2, 1, 8))
    depth = len(model.transformer_blocks)
    for layer, block in enumerate(model.transformer_blocks):
        tokens = block(tokens, encoder_hidden_states=text, timestep=time)
        if layer < depth - 1:
            tokens = tokens + given[layer * len(given) // depth]
    shift, scale = (model.scale_shift_table[None] + embedded[:, None]).chunk(2, dim=1)
    answer = model.proj_out(model.norm_out(tokens) * (1 + scale) + shift).unflatten(1, (4, 6)).unflatten(3, (4, 4, 6))
    return answer.permute(0, 5, 1, 3, 2, 4).reshape(2, 6, 16, 24)[:, :3]


@pytest.mark.parametrize("count", [5, 2, 1])
def test_residuals_are_added_after_each_block_but_the_last_and_stretched_over_the_depth(count):
    backbone = tiny_backbone(architecture=PIXART | {"num_layers": 5})
    found = backbone.velocity(latents(), SIGMA, residuals(count))
    torch.testing.assert_close(found, steered_by_hand(backbone.transformer, residuals(count)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, backbone.velocity(latents(), SIGMA), rtol=1e-2)


def test_the_attention_gets_no_unknown_argument(caplog):
    tiny_backbone(architecture=PIXART).velocity(latents(), SIGMA, residuals(2))
    assert "cross_attention_kwargs" not in caplog.text


def test_its_sizes():
    backbone = tiny_backbone(architecture=PIXART)
    sizes = ("latent_channels", "token_patch", "token_dim", "num_layers", "max_size")
    assert [getattr(backbone, name) for name in sizes] == [3, 4, 16, 2, 64]


def test_every_parameter_has_a_gradient_in_pretraining_and_under_a_restorer():
    backbone = tiny_backbone(architecture=TOLD_ITS_SIZE)
    backbone.flow_loss(tiny_batch(), 0).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []
    restorer = tiny_restorer(backbone={"architecture": PIXART, "trainable": True})
    for step in gradients(restorer, [tiny_batch(seed=seed) for seed in range(2)]):
        assert len(step) > 50 and [name for name, gradient in step.items() if gradient is None] == []


def test_one_step_of_training_moves_it_and_a_checkpoint_brings_it_back(tmp_path):
    restorer = tiny_restorer(backbone={"architecture": PIXART, "trainable": True})
    before = restorer.backbone.velocity(latents(), SIGMA)
    train(restorer, [tiny_batch()]).save_checkpoint(tmp_path / "run.ckpt")
    after = restorer.backbone.velocity(latents(), SIGMA)
    assert not torch.equal(after, before)
    again = tiny_restorer(backbone={"architecture": PIXART, "trainable": True})
    train(again, [tiny_batch()], ckpt_path=tmp_path / "run.ckpt")
    assert torch.equal(again.backbone.velocity(latents(), SIGMA), after)


def test_the_family_is_read_from_the_folder(tmp_path):
    backbone = tiny_backbone(architecture=PIXART)
    backbone.save_pretrained(tmp_path, dtype=torch.float32)
    again = DiTBackbone(str(tmp_path))
    given = residuals(2)
    assert torch.equal(again.velocity(latents(), SIGMA, given), backbone.velocity(latents(), SIGMA, given))


def test_an_unsupported_class_is_named():
    with pytest.raises(ValueError, match="_class_name 'UNet' is of no supported family; choose one of SD3Transformer2DModel, PixArtT"):
        DiTBackbone(None, architecture={"_class_name": "UNet"})
    with pytest.raises(ValueError, match="architecture: PixArtTransformer2DModel does not take qk_norm"):
        DiTBackbone(None, architecture=PIXART | {"qk_norm": "rms_norm"})
