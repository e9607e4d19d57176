"""The backbone: velocity, pretraining, and folders."""

import pytest
import torch

from mimdit.backbone import DiTBackbone
from mimdit.flow import FlowMatching, keyed_generator
from tests.tiny_models import ARCHITECTURE, randomise, tiny_backbone, tiny_batch


def latents(height=16, width=24):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_velocity_is_the_transformers_answer_at_a_thousand_sigma():
    backbone, sigma = tiny_backbone(), torch.tensor([0.1, 0.7])
    expected = backbone.transformer(
        hidden_states=latents(),
        encoder_hidden_states=torch.zeros(2, 1, 8),
        pooled_projections=torch.zeros(2, 8),
        timestep=torch.tensor([100.0, 700.0]),
    ).sample
    torch.testing.assert_close(backbone.velocity(latents(), sigma), expected, rtol=1e-5, atol=1e-5)
    assert expected.shape == latents().shape


def test_sigma_is_not_rounded_to_the_weights_precision():
    backbone = tiny_backbone()
    backbone.transformer.to(torch.bfloat16)
    close = torch.tensor([0.9000, 0.9000]), torch.tensor([0.9002, 0.9002])  # alike in bf16
    assert close[0].bfloat16()[0] == close[1].bfloat16()[0]
    seen = []
    backbone.transformer.time_text_embed.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for sigma in close:
        backbone.velocity(latents(), sigma)
    assert seen[0].dtype == torch.float32 and seen[0][0] != seen[1][0]


def test_pretraining_loss_is_the_velocity_error_on_the_clean_image():
    backbone, batch = tiny_backbone(seed=3), tiny_batch(2)
    backbone.seed = 7
    clean, expected = batch["gt"] * 2 - 1, []
    for image, key in zip(clean, batch["key"], strict=True):
        generator = keyed_generator(7, f"11/{key}")
        sigma = FlowMatching().draw_sigma(generator)
        noise = torch.randn(image.shape, generator=generator)
        noisy = ((1 - sigma) * image + sigma * noise)[None]
        expected.append((backbone.velocity(noisy, sigma[None]) - (noise - image)).square().mean())
    torch.testing.assert_close(backbone.flow_loss(batch, 11), torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)


def test_every_parameter_has_a_gradient_in_pretraining():
    for options in ({}, {"qk_norm": "rms_norm"}):
        backbone = tiny_backbone(architecture=ARCHITECTURE | options)
        backbone.flow_loss(tiny_batch(), 0).backward()
        assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("layout", ["", "transformer"])
def test_saved_and_read_weights_are_equal_to_bf16_rounding(tmp_path, layout):
    backbone = tiny_backbone()
    randomise(backbone.transformer, 5)
    before = {name: tensor.clone() for name, tensor in backbone.transformer.state_dict().items()}
    backbone.save_pretrained(tmp_path / layout)
    again = DiTBackbone(str(tmp_path)).transformer
    for name, tensor in again.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name].bfloat16().float())
        assert torch.equal(backbone.transformer.state_dict()[name], before[name])  # saving changed nothing
    assert dict(again.config)["pos_embed_max_size"] == ARCHITECTURE["pos_embed_max_size"]


def test_fp32_folders_keep_every_bit(tmp_path):
    backbone = tiny_backbone()
    backbone.save_pretrained(tmp_path, dtype=torch.float32)
    again, sigma = DiTBackbone(str(tmp_path)), torch.ones(2)
    assert torch.equal(again.velocity(latents(), sigma), backbone.velocity(latents(), sigma))


def test_an_unknown_key_of_the_architecture_is_named():
    with pytest.raises(ValueError, match=r"does not take depth; it takes sample_size, .*num_layers"):
        DiTBackbone(None, architecture={"depth": 3})


def test_a_folder_that_is_no_backbone_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path} holds no SD3Transformer2DModel"):
        DiTBackbone(str(tmp_path))
