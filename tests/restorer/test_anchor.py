"""A restorer whose prediction starts from an anchor: the degraded latent, or the estimate."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from mimdit import cli
from mimdit.backbone import LoRA
from mimdit.backbone.prompts import write_prompts
from mimdit.conditioner.pruning import prune
from mimdit.core.rng import keyed_generator
from mimdit.restorer.flow_loss import flow_loss
from mimdit.restorer.pipeline import MiMDiTPipeline
from mimdit.restorer.restorer import Restorer
from mimdit.training.flops import restoration_flops, training_flops
from tests.tiny_models import FLUX, FLUX_CONDITIONER, PIXART, randomize, tiny_backbone, tiny_batch, tiny_restorer
from tests.tiny_training import gradients, train

ESTIMATE = {"estimate": True, "tone_powers": [0, 0.4, 1]}
ANCHORS = pytest.mark.parametrize("anchor", ["degraded", "estimate"])
BACKBONES = {"sd3": {}, "pixart": {"architecture": PIXART}, "sample": {"prediction": "sample"}}
SIGMA = torch.tensor([0.02, 0.9])
OUTPUT_LAYER = "output_layer.safetensors"


def latents(height=16, width=16, seed=0):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


def images(height=16, width=16):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def anchored(anchor="estimate", **options):
    """A restorer as initialized, but with an estimate that is not the degraded latent."""
    restorer = tiny_restorer(**{"conditioner": ESTIMATE, "anchor": anchor} | options)
    randomize(restorer.conditioner.estimate_head, 0, scale=0.1)
    return restorer


def living(anchor="estimate", **options):
    """One with no zero-initialized layer left; the average differs from the live weights."""
    restorer = anchored(anchor, **options)
    for seed, part in enumerate((restorer.conditioner, restorer.output_layer, restorer.ema)):
        randomize(part, seed, scale=0.1)
    return restorer.eval()


def expected_anchor(restorer, degraded):
    return degraded if restorer.anchor == "degraded" else restorer.conditioner(degraded).estimate


@ANCHORS
@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
@pytest.mark.parametrize("size", [(16, 16), (80, 96)], ids=["one tile", "tiles"])
def test_at_step_0_it_predicts_its_anchor(anchor, backbone, size):
    restorer, degraded, z = anchored(anchor, backbone=backbone), latents(*size), latents(*size, seed=1)
    conditioning = restorer.conditioner(degraded)
    told = restorer.anchor_of(degraded, conditioning)
    assert torch.equal(told, expected_anchor(restorer, degraded))
    assert torch.equal(told, degraded) is (anchor == "degraded")
    velocity = restorer.velocity(z, SIGMA, conditioning, anchor=told)
    expected = torch.stack([(z[0] - told[0]) / 0.05, (z[1] - told[1]) / 0.9])
    if max(size) <= restorer.tile:
        assert torch.equal(velocity, expected)
    torch.testing.assert_close(velocity, expected, rtol=1e-4, atol=1e-5)


@ANCHORS
@pytest.mark.parametrize("steps", [1, 4])
def test_at_step_0_it_restores_to_its_anchor(anchor, steps):
    restorer, degraded = anchored(anchor), images(20, 24)
    expected = degraded if anchor == "degraded" else restorer.restore(degraded, 0, start="estimate")
    torch.testing.assert_close(restorer.restore(degraded, steps), expected, rtol=0, atol=1e-5)
    assert (expected - degraded).abs().max() > 0.01 or anchor == "degraded"


@ANCHORS
@pytest.mark.parametrize("on", ["velocity", "sample"])
@pytest.mark.parametrize("flow", [{}, {"source": "estimate", "sigma_start": 0.3}], ids=["noise", "estimate"])
def test_flow_loss_by_hand(anchor, on, flow):
    flow = flow | {"low_sigma_fraction": 0.5, "low_sigma": 0.05}
    restorer, batch = living(anchor, flow=flow, flow_loss_on=on, seed=4), tiny_batch(4)
    degraded, clean = restorer.backbone.encode(batch["lq"]), restorer.backbone.encode(batch["gt"])
    conditioning, errors = restorer.conditioner(degraded), []
    told = expected_anchor(restorer, degraded)
    other = tiny_backbone()
    other.transformer.proj_out.load_state_dict(restorer.output_layer.state_dict())
    for index, key in enumerate(batch["key"]):
        generator = keyed_generator(4, key)
        sigma = restorer.flow.draw_sigma(generator)
        noise, x = torch.randn(3, 16, 16, generator=generator), clean[index]
        source = noise
        if "source" in flow:
            source = (0.7 * conditioning.estimate[index] + 0.3 * noise - 0.7 * x) / 0.3
        z = ((1 - sigma) * x + sigma * source)[None]
        residuals = restorer.conditioner.timestep_scale([r[index : index + 1] for r in conditioning.residuals], sigma[None])
        error = (told[index] + other.velocity(z, sigma[None], residuals)[0] - x).square().mean()
        errors.append(error if on == "sample" else error / max(float(sigma), 0.05) ** 2)
    found = flow_loss(restorer, degraded, clean, conditioning, batch["key"])
    torch.testing.assert_close(found, torch.stack(errors).mean(), rtol=1e-3, atol=1e-5)


@ANCHORS
def test_only_a_few_images_may_take_part_in_the_flow_loss(anchor):
    few, all_ = living(anchor, flow_images=2), living(anchor)
    batch = tiny_batch(4)
    degraded, clean = few.backbone.encode(batch["lq"]), few.backbone.encode(batch["gt"])
    found = flow_loss(few, degraded, clean, few.conditioner(degraded), batch["key"])
    expected = flow_loss(all_, degraded[:2], clean[:2], all_.conditioner(degraded[:2]), batch["key"][:2])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


IDENTIFYING = {"conditioner": ESTIMATE | {"identify": True, "confidence": True}, "identify_weight": 0.5}
TRAININGS = {
    "degraded": {"anchor": "degraded"},
    "degraded, no estimate": {"anchor": "degraded", "conditioner": {}},
    "degraded, estimate trained": {"anchor": "degraded", "estimate_weight": 1.0},
    "estimate": {},
    "estimate, trained by itself too": {"estimate_weight": 1.0},
    "estimate, on samples": {"flow_loss_on": "sample", "flow_norm": "rmse", "flow_images": 1},
    "estimate, its path": {"flow": {"source": "estimate", "sigma_start": 0.3}},
    "trained backbone": {"backbone": {"trainable": True}},
    "trained sample backbone": {"backbone": {"trainable": True, "prediction": "sample"}},
    "trained PixArt": {"backbone": {"trainable": True, "architecture": PIXART}},
    "trained FLUX.1": {"backbone": {"trainable": True, "architecture": FLUX}, "conditioner": ESTIMATE | FLUX_CONDITIONER},
    "adapters": {"backbone": {"lora": LoRA(rank=2)}},
    "adapters of the last layer": {"backbone": {"lora": LoRA(rank=2, targets=["to_q", "proj_out"])}},
    "estimate only": {"flow_weight": 0.0, "estimate_weight": 1.0},
    "identifying": IDENTIFYING,
    "identification frozen": IDENTIFYING | {"identify_weight": 0.0},
    "identification only": IDENTIFYING | {"flow_weight": 0.0},
    "no anchor, sample": {"anchor": "none", "backbone": {"trainable": True, "prediction": "sample"}},
    "coarse grid": {"conditioner": ESTIMATE | {"moe_dim": 12, "moe_stride": 2, "feed_forward": "conv"}},
}


@pytest.mark.parametrize("options", TRAININGS.values(), ids=TRAININGS)
def test_every_trainable_parameter_has_a_gradient_in_every_step_and_nothing_else_moves(options):
    restorer = tiny_restorer(**{"conditioner": ESTIMATE, "anchor": "estimate"} | options)
    before = {name: tensor.detach().clone() for name, tensor in restorer.named_parameters()}
    free = {name for name, parameter in restorer.named_parameters() if parameter.requires_grad}
    steps = gradients(restorer, [tiny_batch(size=32, seed=seed) for seed in range(3)])
    assert len(steps) == 3
    for found in steps:
        assert set(found) == free and [name for name, gradient in found.items() if gradient is None] == []
    moved = {name for name, tensor in restorer.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved <= free
    learns = restorer.anchor != "none" and restorer.flow_weight > 0
    assert ("output_layer.weight" in moved) is ("output_layer.bias" in moved) is learns
    if restorer.anchor != "none":
        assert not any(name.startswith("backbone.transformer.proj_out") for name in free)
    assert {name.replace("/", ".") for name in restorer.ema.average} == free


@ANCHORS
def test_the_flow_loss_reaches_the_estimate_where_that_is_the_anchor_and_only_there(anchor):
    restorer = anchored(anchor)
    assert all(weight.requires_grad is (anchor == "estimate") for weight in restorer.conditioner.estimate_head.parameters())
    batch = tiny_batch()
    degraded, clean = restorer.backbone.encode(batch["lq"]), restorer.backbone.encode(batch["gt"])
    flow_loss(restorer, degraded, clean, restorer.conditioner(degraded), batch["key"]).backward()
    reached = [weight.grad is not None and bool(weight.grad.any()) for weight in restorer.conditioner.estimate_head.parameters()]
    assert any(reached) is (anchor == "estimate")
    assert restorer.output_layer.weight.grad.any() and restorer.output_layer.bias.grad.any()
    assert all(weight.grad is None for weight in restorer.backbone.parameters())


def test_after_a_few_steps_the_output_layer_and_the_residuals_matter():
    restorer = anchored("degraded", optimizer=partial(torch.optim.AdamW, lr=0.05))
    train(restorer, [tiny_batch(seed=seed) for seed in range(6)])
    conditioning = restorer.conditioner(latents())
    steered = restorer.velocity(latents(seed=1), SIGMA, conditioning, anchor=latents())
    assert not torch.allclose(steered, restorer.velocity(latents(seed=1), SIGMA, None, anchor=latents()), rtol=1e-2)
    assert not torch.allclose(steered, (latents(seed=1) - latents()) / SIGMA.clamp_min(0.05)[:, None, None, None], rtol=1e-2)
    outputs = restorer.test_step(tiny_batch(), 0)
    assert all((outputs[name] - outputs["restored"]).abs().max() > 1e-4 for name in ("residuals_zeroed", "gates_uniform"))


@ANCHORS
@pytest.mark.parametrize("flow", [{}, {"start": "estimate", "sigma_start": 0.3, "sampler": "heun"}], ids=["noise", "estimate"])
def test_in_pieces_it_restores_what_it_restores_in_one(anchor, flow):
    restorer = living(anchor, flow=flow, conditioner=ESTIMATE | {"identify": True, "confidence": True}, tile=32, overlap=8)
    picture = images(150, 90)[:1]
    whole = restorer.restore(picture)
    assert (whole - restorer.restore(picture, tile=40)).abs().max() < 1e-5 < whole.std()


def test_each_tile_starts_from_its_own_part_of_the_anchor():
    restorer, size = living(tile=32, overlap=16), (48, 64)
    z, conditioning = latents(*size, seed=1), restorer.conditioner(latents(*size))
    told, sigma = conditioning.estimate, torch.tensor([0.5, 0.9])
    changed = told.clone()
    changed[:, :, :16, :16] += 1  # of the first tile only
    before, after = (restorer.velocity(z, sigma, conditioning, anchor=anchor) for anchor in (told, changed))
    expected = (told - changed) / sigma[:, None, None, None]
    torch.testing.assert_close(after - before, expected, rtol=1e-3, atol=1e-4)


def test_guidance_leads_away_from_the_empty_prompt(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tokens, pooled = torch.randn(2, 3, 8, generator=generator), torch.randn(2, 8, generator=generator)
    write_prompts(tmp_path / "prompts.safetensors", ["", "sharp"], tokens, pooled, made_with="a test")
    prompt = {"prompt": str(tmp_path / "prompts.safetensors")}
    told, empty = (living(backbone=prompt | {"prompt_text": text}) for text in ("sharp", ""))
    conditioning = told.conditioner(latents())
    with_prompt, without = (
        restorer.velocity(latents(seed=1), SIGMA, conditioning, anchor=conditioning.estimate) for restorer in (told, empty)
    )
    found = told.velocity(latents(seed=1), SIGMA, conditioning, anchor=conditioning.estimate, guidance=2.5)
    assert not torch.allclose(with_prompt, without, rtol=1e-2)
    torch.testing.assert_close(found, without + 2.5 * (with_prompt - without), rtol=1e-4, atol=1e-4)


@ANCHORS
@pytest.mark.parametrize("backbone", [{}, {"trainable": True}, {"lora": LoRA(rank=2)}], ids=["frozen", "trained", "lora"])
def test_a_resumed_run_ends_as_the_one_that_never_stopped(tmp_path, anchor, backbone):
    straight, first, second = (tiny_restorer(conditioner=ESTIMATE, anchor=anchor, backbone=backbone) for _ in range(3))
    batches = [tiny_batch(seed=seed) for seed in range(2)]
    train(straight, batches, max_epochs=2)
    train(first, batches).save_checkpoint(tmp_path / "run.ckpt")
    for weight in second.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight)
    train(second, batches, max_epochs=2, ckpt_path=tmp_path / "run.ckpt")
    assert all(torch.equal(tensor, straight.state_dict()[name]) for name, tensor in second.state_dict().items())
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"]
    assert {"output_layer.weight", "ema.average.output_layer/weight"} <= set(saved) and saved["output_layer.weight"].any()


def averaged(restorer, *arguments, **options):
    """What a restorer with its averaged weights restores."""
    restorer.ema.swap()
    restored = restorer.restore(*arguments, **options)
    restorer.ema.swap()
    return restored


@ANCHORS
def test_a_folder_restores_what_the_average_restores_also_when_it_is_saved_once_more(tmp_path, anchor):
    restorer, picture = living(anchor, backbone={"sigma_min": 0.2}), images(20, 24)
    expected = averaged(restorer, picture, 8)
    assert not torch.allclose(expected, restorer.restore(picture, 8), atol=1e-3)
    restorer.save_pretrained(tmp_path / "first")
    settings = json.loads((tmp_path / "first/restorer.json").read_text())
    assert settings["anchor"] == anchor and settings["sigma_min"] == 0.2
    again = Restorer.from_pretrained(tmp_path / "first", backbone=tiny_backbone())
    assert torch.equal(again.restore(picture, 8), expected) and again.anchor == anchor
    again.save_pretrained(tmp_path / "second")
    twice = Restorer.from_pretrained(tmp_path / "second", backbone=tiny_backbone())
    assert torch.equal(twice.restore(picture, 8), expected)


def test_a_folder_without_an_anchor_says_nothing_of_one(tmp_path):
    restorer = tiny_restorer()
    restorer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "restorer.json").read_text()).keys() == {"flow", "tile", "overlap", "seed", "parts", "frozen"}
    assert not (tmp_path / OUTPUT_LAYER).exists()
    again = Restorer.from_pretrained(tmp_path, backbone=tiny_backbone())
    assert again.anchor == "none" and again.output_layer is None and again.backbone.sigma_min == 0.05


def test_a_trained_sample_backbone_travels_with_the_folder_and_so_does_what_it_predicts(tmp_path):
    restorer = tiny_restorer(backbone={"trainable": True, "prediction": "sample", "sigma_min": 0.2})
    restorer.save_pretrained(tmp_path, dtype=torch.float32)
    again = Restorer.from_pretrained(tmp_path)
    assert again.backbone.prediction == "sample" and again.backbone.sigma_min == 0.2
    assert torch.equal(again.restore(images(), 8), restorer.restore(images(), 8))


def test_weights_taken_for_a_velocity_are_not_those_that_it_was_trained_on(tmp_path):
    tiny_restorer(backbone={"prediction": "sample"}).save_pretrained(tmp_path)
    assert Restorer.from_pretrained(tmp_path, backbone=tiny_backbone(prediction="sample")).backbone.prediction == "sample"
    with pytest.raises(ValueError, match="trained on another transformer"):
        Restorer.from_pretrained(tmp_path, backbone=tiny_backbone())


@ANCHORS
def test_another_conditioner_keeps_the_anchor_and_the_output_layer(tmp_path, anchor):
    restorer = living(anchor, conditioner=ESTIMATE | {"num_experts": 4})
    other = restorer.with_conditioner(restorer.conditioner)
    expected = restorer.restore(images())
    assert other.anchor == anchor and torch.equal(other.restore(images()), expected)
    assert torch.equal(averaged(other, images()), expected)  # its average is what it was made of
    pruned = restorer.with_conditioner(prune(restorer.conditioner, torch.ones(1, 4, 4), 4))
    assert torch.equal(pruned.restore(images()), expected)


def test_another_conditioner_changes_nothing_of_what_trains():
    backbone = {"trainable": True}
    restorer = living(
        backbone=backbone, conditioner=ESTIMATE | {"identify": True}, flow_weight=0.0, estimate_weight=1.0, identify_weight=1.0
    )
    before = {name: parameter.requires_grad for name, parameter in restorer.named_parameters()}
    assert not any(before[name] for name in before if name.startswith("backbone."))
    restorer.with_conditioner(restorer.conditioner)
    assert {name: parameter.requires_grad for name, parameter in restorer.named_parameters()} == before


@ANCHORS
@pytest.mark.parametrize("complete", [False, True])
def test_an_export_restores_what_was_exported(tmp_path, anchor, complete):
    restorer = living(anchor, backbone={"prediction": "sample"})
    expected = averaged(restorer, images())
    MiMDiTPipeline(restorer).save_pretrained(tmp_path / "own")
    cli.main(["export", str(tmp_path / "own"), str(tmp_path / "out"), "--dtype", "float32", *(["--complete"] if complete else [])])
    again = Restorer.from_pretrained(tmp_path / "out", backbone=None if complete else tiny_backbone(prediction="sample"))
    assert torch.equal(again.restore(images()), expected)
    if complete:
        assert torch.equal(MiMDiTPipeline.from_pretrained(tmp_path / "out").restorer.restore(images()), expected)


def test_in_bf16_it_restores_alike_and_its_output_layer_stays_fp32(tmp_path):
    restorer = living()
    MiMDiTPipeline(restorer).save_pretrained(tmp_path)
    half = Restorer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.backbone.transformer.dtype == torch.bfloat16 and half.output_layer.weight.dtype == torch.float32
    difference = (half.restore(images()) - averaged(restorer, images())).abs()
    assert 0 < difference.mean() < 0.02


def test_training_can_start_from_a_saved_folder(tmp_path):
    restorer = living()
    restorer.save_pretrained(tmp_path)
    again = tiny_restorer(conditioner=ESTIMATE, anchor="estimate", pretrained=str(tmp_path))
    for name in ("weight", "bias"):
        expected = restorer.ema.average[f"output_layer/{name}"]
        assert torch.equal(getattr(again.output_layer, name), expected)
        assert torch.equal(again.ema.average[f"output_layer/{name}"], expected)
    tiny_restorer(conditioner=ESTIMATE).save_pretrained(tmp_path / "bare")
    fresh = tiny_restorer(conditioner=ESTIMATE, anchor="estimate", pretrained=str(tmp_path / "bare"))
    assert not fresh.output_layer.weight.any()  # a restorer without an anchor has none to start from


def test_a_folder_that_lacks_its_output_layer_or_has_another_is_named(tmp_path):
    living().save_pretrained(tmp_path)
    save_file({name: tensor[:5].contiguous() for name, tensor in load_file(tmp_path / OUTPUT_LAYER).items()}, tmp_path / OUTPUT_LAYER)
    with pytest.raises(ValueError, match=rf"{OUTPUT_LAYER} holds .*\(5, 16\).*needs .*\(48, 16\).*use the backbone it was trained on"):
        Restorer.from_pretrained(tmp_path, backbone=tiny_backbone())
    (tmp_path / OUTPUT_LAYER).unlink()
    with pytest.raises(ValueError, match=rf"{tmp_path} has anchor: estimate, but {OUTPUT_LAYER} is missing; copy the folder anew"):
        Restorer.from_pretrained(tmp_path, backbone=tiny_backbone())


def test_an_anchor_costs_no_operations():
    bare, model = tiny_restorer(conditioner=ESTIMATE), anchored()
    assert restoration_flops(model, images(), 3) == restoration_flops(bare, images(), 3)
    assert training_flops(model, tiny_batch()).forward == training_flops(bare, tiny_batch()).forward


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"anchor": "clean"}, r"anchor 'clean' is unknown; choose one of none, degraded, estimate"),
        ({"anchor": "estimate", "conditioner": {}}, r"anchor 'estimate' needs a conditioner with estimate: true; switch it on, or use"),
        ({"flow_loss_on": "noise"}, r"flow_loss_on 'noise' is unknown; choose velocity or sample"),
        ({"identify_weight": 1.0}, r"identify_weight > 0 needs conditioner.identify: true; switch it on, or use identify_weight: 0"),
    ],
)
def test_a_wrong_argument_is_named_with_its_remedy(options, words):
    with pytest.raises(ValueError, match=words):
        tiny_restorer(**{"conditioner": ESTIMATE} | options)


def test_a_velocity_without_its_anchor_is_an_error():
    with pytest.raises(ValueError, match=r"no anchor is given to a restorer with anchor: estimate; pass anchor_of\(degraded, cond"):
        anchored().velocity(latents(), SIGMA, None)
    with pytest.raises(ValueError, match="an anchor is given to a restorer with anchor: none; leave anchor out"):
        tiny_restorer().velocity(latents(), SIGMA, None, anchor=latents())
