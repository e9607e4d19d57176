"""FLUX.1 as a backbone: packed latents, residuals after the double blocks, embedded guidance."""

import pytest
import torch
from diffusers import FluxPipeline

from mimdit.backbone import DiTBackbone, LoRA
from mimdit.backbone.flux import image_ids, pack, unpack
from mimdit.backbone.prompts import write_prompts
from tests.tiny_models import FLUX, FLUX_CONDITIONER, tiny_backbone, tiny_batch, tiny_restorer
from tests.tiny_training import gradients, train

SIGMA = torch.tensor([0.2, 0.9])
SCHNELL = FLUX | {"guidance_embeds": False}


def latents(height=8, width=12):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def residuals(count, tokens=24, width=16):
    return [torch.randn(2, tokens, width, generator=torch.Generator().manual_seed(index)) for index in range(count)]


def of_flux(**options):
    """A restorer with a tiny FLUX.1 backbone."""
    backbone = {"architecture": FLUX} | options.pop("backbone", {})
    return tiny_restorer(backbone=backbone, conditioner=FLUX_CONDITIONER | options.pop("conditioner", {}), **options)


def by_pipeline(model, guidance=3.5):
    """The model's output for inputs made as `FluxPipeline` makes them."""
    output = model(
        hidden_states=FluxPipeline._pack_latents(latents(), 2, 3, 8, 12),
        encoder_hidden_states=torch.zeros(2, 1, 8),
        pooled_projections=torch.zeros(2, 8),
        timestep=SIGMA,
        img_ids=FluxPipeline._prepare_latent_image_ids(2, 4, 6, "cpu", torch.float32),
        txt_ids=torch.zeros(1, 3),
        guidance=None if guidance is None else torch.full((2,), guidance),
    ).sample
    return FluxPipeline._unpack_latents(output, 8 * 2, 12 * 2, 2)


def test_latents_are_packed_and_unpacked_as_by_the_pipeline():
    packed = pack(latents())
    assert torch.equal(packed, FluxPipeline._pack_latents(latents(), 2, 3, 8, 12)) and packed.shape == (2, 24, 12)
    assert torch.equal(unpack(packed, 4, 6), latents())
    assert torch.equal(FluxPipeline._unpack_latents(packed, 16, 24, 2), latents())


def test_positions_are_those_of_the_pipeline():
    assert torch.equal(image_ids(4, 6, torch.device("cpu")), FluxPipeline._prepare_latent_image_ids(1, 4, 6, "cpu", torch.float32))


@pytest.mark.parametrize(
    ("architecture", "options", "guidance"), [(FLUX, {}, 3.5), (FLUX, {"embedded_guidance": 1.0}, 1.0), (SCHNELL, {}, None)]
)
def test_the_velocity_is_to_the_bit_that_of_the_transformer_with_the_pipelines_inputs(architecture, options, guidance):
    backbone = tiny_backbone(architecture=architecture, **options)
    expected = by_pipeline(backbone.transformer, guidance)
    assert expected.abs().mean() > 0.01
    assert torch.equal(backbone.velocity(latents(), SIGMA), expected)
    assert torch.equal(backbone.velocity(latents(), SIGMA, [torch.zeros(2, 24, 16)] * 3), expected)


def test_the_embedded_guidance_changes_the_velocity():
    found = [tiny_backbone(architecture=FLUX, embedded_guidance=value).velocity(latents(), SIGMA) for value in (0.0, 1.0, 3.5)]
    assert all(not torch.allclose(found[0], other, rtol=1e-2) for other in found[1:])
    assert not torch.allclose(found[1], found[2], rtol=1e-2)


@torch.no_grad()
def steered_by_hand(model, given):
    """The model's parts one after the other, with residuals after the double blocks."""
    tokens, text = model.x_embedder(pack(latents())), model.context_embedder(torch.zeros(2, 1, 8))
    time = model.time_text_embed(SIGMA * 1000, torch.full((2,), 3500.0), torch.zeros(2, 8))
    positions = model.pos_embed(torch.cat([torch.zeros(1, 3), image_ids(4, 6, torch.device("cpu"))]))
    depth = len(model.transformer_blocks) + 1  # the single blocks count as the last
    for layer, block in enumerate(model.transformer_blocks):
        text, tokens = block(tokens, text, time, positions)
        tokens = tokens + given[layer * len(given) // depth]
    for block in model.single_transformer_blocks:
        text, tokens = block(tokens, text, time, positions)
    return unpack(model.proj_out(model.norm_out(tokens, time)), 4, 6)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("count", [6, 4, 2, 1])
def test_residuals_are_added_after_each_double_block_and_stretched_over_the_depth(count, checkpointing):
    backbone = tiny_backbone(architecture=FLUX | {"num_layers": 5}, checkpointing=checkpointing)
    found = backbone.velocity(latents(), SIGMA, residuals(count))
    torch.testing.assert_close(found, steered_by_hand(backbone.transformer, residuals(count)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, backbone.velocity(latents(), SIGMA), rtol=1e-2)


def test_each_of_as_many_residuals_as_double_blocks_gets_a_gradient_and_the_one_of_the_single_blocks_none():
    given = [residual.requires_grad_() for residual in residuals(3)]
    tiny_backbone(architecture=FLUX).velocity(latents(), SIGMA, given).square().sum().backward()
    assert [residual.grad is not None for residual in given] == [True, True, False]


def test_its_sizes():
    backbone = tiny_backbone(architecture=FLUX)
    sizes = ("latent_channels", "token_patch", "token_dim", "num_layers", "max_size")
    assert [getattr(backbone, name) for name in sizes] == [3, 2, 16, 3, 128]


def test_every_parameter_has_a_gradient_in_pretraining_and_under_a_restorer():
    backbone = tiny_backbone(architecture=FLUX)
    backbone.flow_loss(tiny_batch(), 0).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []
    for step in gradients(of_flux(backbone={"trainable": True}), [tiny_batch(seed=seed) for seed in range(2)]):
        assert len(step) > 50 and [name for name, gradient in step.items() if gradient is None] == []


def test_an_untrained_restorer_is_the_transformer_to_the_bit():
    restorer, noisy = of_flux(), latents(16, 32)
    assert torch.equal(restorer.velocity(noisy, SIGMA, restorer.conditioner(noisy)), restorer.backbone.velocity(noisy, SIGMA))


def test_one_step_of_training_moves_it_and_a_checkpoint_brings_it_back(tmp_path):
    restorer = of_flux(backbone={"trainable": True})
    before = restorer.backbone.velocity(latents(), SIGMA)
    train(restorer, [tiny_batch()]).save_checkpoint(tmp_path / "run.ckpt")
    after = restorer.backbone.velocity(latents(), SIGMA)
    assert not torch.equal(after, before)
    again = of_flux(backbone={"trainable": True})
    train(again, [tiny_batch()], ckpt_path=tmp_path / "run.ckpt")
    assert torch.equal(again.backbone.velocity(latents(), SIGMA), after)


@pytest.mark.parametrize("guidance_embeds", [True, False])
def test_the_family_is_read_from_the_folder(tmp_path, guidance_embeds):
    backbone = tiny_backbone(architecture=FLUX | {"guidance_embeds": guidance_embeds})
    backbone.save_pretrained(tmp_path, dtype=torch.float32)
    again = DiTBackbone(str(tmp_path))
    given = residuals(3)
    assert torch.equal(again.velocity(latents(), SIGMA, given), backbone.velocity(latents(), SIGMA, given))


@pytest.mark.parametrize("tile", [None, 8])
def test_an_image_of_any_size_is_restored_whole_and_in_tiles(tile):
    restorer = of_flux(tile=tile, overlap=4)
    restored = restorer.restore(torch.rand(1, 3, 15, 21, generator=torch.Generator().manual_seed(1)), 2)
    assert restored.shape == (1, 3, 15, 21) and restored.isfinite().all() and restored.std() > 0.01


def test_adapters_reach_the_single_blocks_and_blocks_are_numbered_through():
    def targets(**options):
        names = [name for name, _ in tiny_backbone(architecture=FLUX, lora=LoRA(rank=2, **options)).transformer.named_modules()]
        return {name.removesuffix(".lora_A") for name in names if name.endswith(".lora_A")}

    everywhere = targets()
    assert {"transformer_blocks.1.attn.add_q_proj", "single_transformer_blocks.1.attn.to_q"} <= everywhere
    assert len(everywhere) == 2 * 8 + 2 * 3
    assert targets(blocks=[1, 2], targets=["attn.to_q"]) == {"transformer_blocks.1.attn.to_q", "single_transformer_blocks.0.attn.to_q"}
    with pytest.raises(ValueError, match=r"lora blocks \[4\] do not exist: the transformer has blocks 0 to 3"):
        targets(blocks=[4])


def test_all_blocks_are_units_of_sharding():
    backbone = tiny_backbone(architecture=FLUX)
    blocks = [*backbone.transformer.transformer_blocks, *backbone.transformer.single_transformer_blocks]
    assert backbone.shard_units() == [*([block] for block in blocks), [backbone.transformer]]


def test_classifier_free_guidance_is_refused_wherever_it_is_asked_for(tmp_path):
    file = str(tmp_path / "prompts.safetensors")
    write_prompts(tmp_path / "prompts.safetensors", ["", "rain"], torch.randn(2, 3, 8), torch.randn(2, 8), made_with="a test")
    prompts = {"prompt": file, "prompt_text": "rain"}
    words = "guidance=2.* is classifier-free guidance, but the guidance of Flux.* is embedded: .*set embedded_guidance .*3.5"
    with pytest.raises(ValueError, match=words):
        tiny_backbone(architecture=FLUX, **prompts).velocity(latents(), SIGMA, guidance=2.0)
    with pytest.raises(ValueError, match=f"flow {words}"):
        of_flux(backbone=prompts, flow={"guidance": 2.0})
    with pytest.raises(ValueError, match=words):
        of_flux(backbone=prompts).restore(torch.rand(1, 3, 16, 16), 1, guidance=2.0)
    with pytest.raises(ValueError, match=r"prompt_dropout=0\.1 is classifier-free"):
        tiny_backbone(architecture=FLUX, prompt_dropout=0.1, **prompts)
    with pytest.raises(ValueError, match="is embedded: these weights take none .guidance_embeds is false in their config.: leave"):
        tiny_backbone(architecture=SCHNELL, **prompts).velocity(latents(), SIGMA, guidance=2.0)


def test_a_guidance_that_the_transformer_cannot_take_is_refused():
    with pytest.raises(ValueError, match=r"embedded_guidance=1\.0 is for a transformer with .* this SD3Transformer2DModel has none"):
        tiny_backbone(embedded_guidance=1.0)
    with pytest.raises(ValueError, match=r"embedded_guidance=1\.0 is for .* this FluxTransformer2DModel has none; leave it out"):
        tiny_backbone(architecture=SCHNELL, embedded_guidance=1.0)
    with pytest.raises(ValueError, match=r"embedded_guidance=-1\.0 must be a number of at least 0; the default is 3\.5"):
        tiny_backbone(architecture=FLUX, embedded_guidance=-1.0)
