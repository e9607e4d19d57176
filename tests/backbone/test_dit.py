"""The backbone: velocity, prompts, pretraining, folders, and what makes it faster or smaller."""

from functools import partialmethod

import pytest
import torch

from mimdit.backbone import DiTBackbone, LoRA
from mimdit.backbone.prompts import write_prompts
from mimdit.core.rng import keyed_generator
from mimdit.flow import FlowMatching
from tests.tiny_models import ARCHITECTURE, FLUX, PIXART, randomize, tiny_backbone, tiny_batch
from tests.tiny_training import train


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


def test_a_frozen_transformer_in_bf16_is_left_alone_by_autocast_and_adapters_are_not():
    sigma, residuals = torch.tensor([0.3, 0.8]), [torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()]
    backbone, types = tiny_backbone(dtype="bfloat16"), set()
    norm = backbone.transformer.transformer_blocks[0].norm1
    norm.register_forward_hook(lambda module, args, output: types.add(output[0].dtype))
    expected = backbone.velocity(latents(), sigma, residuals)
    with torch.autocast("cpu", torch.bfloat16):
        found = backbone.velocity(latents(), sigma, residuals)
    assert torch.equal(found, expected) and types == {torch.bfloat16}
    (gradient,) = torch.autograd.grad(found.float().square().sum(), residuals)
    assert gradient.dtype == torch.float32 and gradient.abs().sum() > 0
    adapted = tiny_backbone(dtype="bfloat16", lora=LoRA(rank=2))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(adapted.velocity(latents(), sigma, residuals).float(), expected.float(), rtol=0.05, atol=0.05)


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
    randomize(backbone.transformer, 5)
    before = {name: tensor.clone() for name, tensor in backbone.transformer.state_dict().items()}
    backbone.save_pretrained(tmp_path / layout)
    again = DiTBackbone(str(tmp_path)).transformer
    for name, tensor in again.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name].bfloat16().float())
        assert torch.equal(backbone.transformer.state_dict()[name], before[name])  # saving changed nothing
    assert dict(again.config)["pos_embed_max_size"] == ARCHITECTURE["pos_embed_max_size"]


def test_saved_weights_are_readable_by_those_who_may_read_any_new_file(tmp_path):
    (tmp_path / "any").touch()
    tiny_backbone().save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_mode == (tmp_path / "any").stat().st_mode


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


FAMILIES = pytest.mark.parametrize("architecture", [ARCHITECTURE | {"num_layers": 4}, PIXART | {"num_layers": 4}], ids=["sd3", "pixart"])


def steering(tokens=24, seed=0):
    """Residuals as a conditioner gives them: they are what gradients are wanted for."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, tokens, 16, generator=generator).requires_grad_() for _ in range(4)]


@pytest.mark.parametrize(
    ("architecture", "side"),
    [(ARCHITECTURE | {"num_layers": 4}, 4), (PIXART | {"num_layers": 4}, 4), (FLUX | {"num_layers": 3}, 2)],
    ids=["sd3", "pixart", "flux"],
)
@pytest.mark.parametrize("options", [{"trainable": True}, {}, {"lora": LoRA(rank=2)}], ids=["trained", "frozen", "lora"])
def test_checkpointing_changes_no_gradient(architecture, side, options):
    """Two calls before the backward pass, as a tiled image makes them: each block is computed again with the residuals of its own call."""
    found = []
    for checkpointing in (False, True):
        backbone = tiny_backbone(architecture=architecture, checkpointing=checkpointing, **options)
        backbone.choose_what_trains(reached=True)
        runs = []
        backbone.transformer.transformer_blocks[1].register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        tokens, sigma = 16 * 24 // side**2, torch.tensor([0.2, 0.9])
        given, others = steering(tokens), steering(tokens, seed=1)
        loss = backbone.velocity(latents(), sigma, given).square().sum() + backbone.velocity(latents(), sigma, others).pow(3).sum()
        loss.backward()
        assert len(runs) == (4 if checkpointing else 2)
        trained = {name: weight.grad for name, weight in backbone.named_parameters() if weight.requires_grad}
        assert bool(trained) == bool(options)
        found.append(trained | {f"residual {index}": given[index].grad for index in range(3)} | {"other": others[1].grad})
    assert all(torch.equal(found[1][name], gradient) and gradient is not None for name, gradient in found[0].items())


def counted_compiler(monkeypatch):
    """Let ``Module.compile`` count graphs and run them as they are, which takes a moment instead of a minute."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=backend))
    return graphs


@pytest.mark.parametrize("architecture", [ARCHITECTURE, PIXART], ids=["sd3", "pixart"])
def test_compiled_blocks_are_one_region_for_all_layers_and_change_nothing(architecture, monkeypatch):
    graphs = counted_compiler(monkeypatch)
    deep = architecture | {"num_layers": 10}  # more than the versions of one code that dynamo keeps
    plain, compiled = tiny_backbone(architecture=deep), tiny_backbone(architecture=deep, compile=True, checkpointing=True)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    found = []
    for backbone in (plain, compiled):
        given = steering()
        velocity = backbone.velocity(latents(), torch.tensor([0.2, 0.9]), given)
        velocity.square().sum().backward()
        found.append([velocity, *(residual.grad for residual in given[:-1])])
    for expected, answer in zip(*found, strict=True):
        torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)
    attends = [sum("attention" in str(node.target) for node in graph.graph.nodes) for graph in graphs]
    assert 1 <= len(graphs) <= 3 and set(attends) == {1 if architecture is ARCHITECTURE else 2}  # whole blocks, not pieces


def prompts(folder, **texts):
    """A file of prompts with random embeddings of three tokens, and each of them in a file of its own."""
    generator = torch.Generator().manual_seed(0)
    tokens, pooled = torch.randn(len(texts), 3, 8, generator=generator), torch.randn(len(texts), 8, generator=generator)
    write_prompts(folder / "all.safetensors", list(texts.values()), tokens, pooled, made_with="a test")
    for row, (name, text) in enumerate(texts.items()):
        write_prompts(folder / f"{name}.safetensors", [text], tokens[row : row + 1], pooled[row : row + 1], made_with="a test")
    return {name: str(folder / f"{name}.safetensors") for name in ("all", *texts)}


@pytest.fixture
def files(tmp_path):
    return prompts(tmp_path, empty="", sharp="a sharp photograph", bad="a blurry photograph")


def guided(files, **options):
    return tiny_backbone(prompt=files["all"], prompt_text="a sharp photograph", **options)


@FAMILIES
def test_guidance_leads_away_from_the_velocity_without_the_prompt(files, architecture):
    sigma, given = torch.tensor([0.2, 0.9]), steering()
    backbone, sharp, empty = guided(files, architecture=architecture), *(
        tiny_backbone(architecture=architecture, prompt=files[name]) for name in ("sharp", "empty")
    )  # fmt: skip
    told, without = sharp.velocity(latents(), sigma, given), empty.velocity(latents(), sigma, given)
    assert not torch.allclose(told, without, rtol=1e-2)
    for guidance, expected in ((3.5, without + 3.5 * (told - without)), (0.0, without)):
        torch.testing.assert_close(backbone.velocity(latents(), sigma, given, guidance=guidance), expected, rtol=1e-5, atol=1e-5)
    asked = []
    backbone.transformer.register_forward_pre_hook(lambda *_: asked.append(1))
    assert torch.equal(backbone.velocity(latents(), sigma, given, guidance=1.0), told) and len(asked) == 1


def test_guidance_may_lead_away_from_another_prompt(files):
    sigma = torch.tensor([0.2, 0.9])
    told, bad = (tiny_backbone(prompt=files[name]).velocity(latents(), sigma) for name in ("sharp", "bad"))
    found = guided(files, unconditional_text="a blurry photograph").velocity(latents(), sigma, guidance=2.0)
    torch.testing.assert_close(found, 2 * told - bad, rtol=1e-5, atol=1e-5)


def test_a_dropped_prompt_is_the_empty_one_for_that_image_only(files):
    sigma, backbone = torch.tensor([0.2, 0.9]), guided(files)
    sharp, empty = (tiny_backbone(prompt=files[name]).velocity(latents(), sigma) for name in ("sharp", "empty"))
    found = backbone.velocity(latents(), sigma, dropped=torch.tensor([False, True]))
    torch.testing.assert_close(found, torch.stack([sharp[0], empty[1]]), rtol=1e-5, atol=1e-5)


def test_prompts_are_dropped_by_the_samples_draw_wherever_it_is():
    draws = [f"{step}/{key}" for step in range(40) for key in "abcdefghij"]
    backbone = tiny_backbone()
    assert backbone.drop_prompts(draws, 0) is None
    backbone.prompt_dropout = 0.2
    dropped = backbone.drop_prompts(draws, 0)
    assert dropped.dtype == torch.bool and 0.14 < dropped.float().mean() < 0.26  # five standard deviations are 0.1
    assert torch.equal(backbone.drop_prompts(draws[::-1][:100], 0), dropped.flip(0)[:100])
    assert not torch.equal(backbone.drop_prompts(draws, 1), dropped)


def test_pretraining_drops_prompts_and_validation_does_not(files):
    batch = tiny_batch()
    told, empty = (tiny_backbone(prompt=files[name]).flow_loss(batch, 3) for name in ("sharp", "empty"))
    backbone = guided(files, prompt_dropout=1.0)
    torch.testing.assert_close(backbone.flow_loss(batch, 3), told, rtol=1e-5, atol=1e-6)
    logged = train(backbone, [batch] * 4, max_steps=4).callback_metrics["train/loss"]
    empty = tiny_backbone(prompt=files["empty"])
    torch.testing.assert_close(logged, train(empty, [batch] * 4, max_steps=4).callback_metrics["train/loss"], rtol=1e-5, atol=1e-6)


def test_without_another_prompt_there_is_no_guidance(files):
    words = r"needs the prompt '' beside another one, and this backbone has none; write both into one file with mimdit prompts"
    for options in ({}, {"prompt": files["sharp"]}, {"prompt": files["all"], "prompt_text": ""}):
        with pytest.raises(ValueError, match=rf"prompt_dropout=0.1 {words}"):
            tiny_backbone(prompt_dropout=0.1, **options)
        with pytest.raises(ValueError, match=rf"guidance=2.0 {words}"):
            tiny_backbone(**options).velocity(latents(), torch.ones(2), guidance=2.0)
    with pytest.raises(ValueError, match=r"prompt_dropout=1.5 is outside \[0, 1\]; 0 drops no prompt"):
        tiny_backbone(prompt_dropout=1.5)
