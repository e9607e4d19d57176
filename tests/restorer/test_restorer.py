"""The experiment: what the restorer computes, trains, and restores."""

from functools import partial

import numpy as np
import pytest
import torch

from mimdit.backbone.prompts import write_prompts
from mimdit.core.rng import keyed_generator
from mimdit.restorer.flow_loss import flow_loss
from mimdit.restorer.inference import pad_by_reflection
from mimdit.restorer.restorer import Restorer
from mimdit.routing.routing import uniform_routing
from tests.tiny_models import ARCHITECTURE, randomize, tiny_backbone, tiny_batch, tiny_conditioner, tiny_restorer
from tests.tiny_training import gradients, train

DEEP = {"backbone": {"architecture": ARCHITECTURE | {"num_layers": 4}}, "conditioner": {"num_layers": 4, "num_blocks": 2}}
ESTIMATE = {"conditioner": {"estimate": True, "tone_powers": [0, 0.4, 1, 2]}, "estimate_weight": 1.0}
FROM_ESTIMATE = ESTIMATE | {"flow": {"source": "estimate", "start": "estimate", "sigma_start": 0.3}}


def latents(height=16, width=16, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def images(height=16, width=16, batch=2):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def living(**options):
    """A restorer with no zero-initialized layer left."""
    restorer = tiny_restorer(**options)
    randomize(restorer.conditioner, 0)
    return restorer


@pytest.mark.parametrize("size", [(16, 16), (48, 32), (80, 96)])
@pytest.mark.parametrize("options", [{}, DEEP, FROM_ESTIMATE])
def test_at_step_0_the_velocity_is_the_bare_backbones_to_the_bit(options, size):
    restorer, sigma = tiny_restorer(**options), torch.tensor([0.2, 0.9])
    conditioning = restorer.conditioner(latents(*size).flip(-1))
    bare = tiny_restorer(**options)
    steered, alone = restorer.velocity(latents(*size), sigma, conditioning), bare.velocity(latents(*size), sigma, None)
    assert torch.equal(steered, alone) and alone.abs().max() > 0.01
    if max(size) <= bare.backbone.max_size:
        assert torch.equal(steered, bare.backbone.velocity(latents(*size), sigma))


def test_at_step_0_it_is_so_under_bf16_autocast_too():
    restorer, sigma = tiny_restorer(**DEEP), torch.tensor([0.2, 0.9])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        steered = restorer.velocity(latents(), sigma, restorer.conditioner(latents()))
        assert torch.equal(steered, restorer.backbone.velocity(latents(), sigma))


def test_residuals_of_zero_times_any_scale_change_nothing_and_others_do():
    restorer, sigma = tiny_restorer(), torch.tensor([0.2, 0.9])
    randomize(restorer.conditioner.timestep_scale, 0)
    conditioning = restorer.conditioner(latents())
    assert torch.equal(restorer.velocity(latents(), sigma, conditioning), restorer.backbone.velocity(latents(), sigma))
    restorer = living()
    steered = restorer.velocity(latents(), sigma, restorer.conditioner(latents()))
    assert not torch.allclose(steered, restorer.backbone.velocity(latents(), sigma), rtol=1e-2)


def trainable(restorer):
    return {name for name, parameter in restorer.named_parameters() if parameter.requires_grad}


def test_a_frozen_backbone_stays_and_a_trainable_one_moves():
    for free in (False, True):
        restorer = living(backbone={"trainable": free})
        before = {name: tensor.clone() for name, tensor in restorer.backbone.state_dict().items()}
        train(restorer, [tiny_batch(seed=seed) for seed in range(2)])
        moved = [name for name, tensor in restorer.backbone.state_dict().items() if not torch.equal(tensor, before[name])]
        assert bool(moved) is free
        assert any(name.startswith("backbone.") for name in trainable(restorer)) is free


def test_after_a_few_steps_the_residuals_and_the_gates_matter():
    restorer = tiny_restorer(**DEEP, optimizer=partial(torch.optim.AdamW, lr=0.05))
    train(restorer, [tiny_batch(seed=seed) for seed in range(6)])
    sigma = torch.tensor([0.2, 0.9])
    conditioning = restorer.conditioner(latents())
    assert not torch.allclose(restorer.velocity(latents(), sigma, conditioning), restorer.velocity(latents(), sigma, None), rtol=1e-2)
    outputs = restorer.test_step(tiny_batch(), 0)
    assert set(outputs) == {"restored", "estimate", "identified", "routing", "residuals_zeroed", "gates_uniform"}
    for name in ("residuals_zeroed", "gates_uniform"):
        assert (outputs[name] - outputs["restored"]).abs().max() > 1e-3, name


def test_in_bf16_alone_its_gradients_are_those_of_fp32_to_rounding():
    options = {"backbone": {"trainable": True}, "conditioner": ESTIMATE["conditioner"] | {"tone_grid": 8, "moe_stride": 2}}
    whole, half = living(**FROM_ESTIMATE | options), living(**FROM_ESTIMATE | options)
    half.load_state_dict(whole.state_dict())
    exact = gradients(whole, [tiny_batch(2, 32)])[0]
    rounded = gradients(half, [tiny_batch(2, 32)], precision="bf16-true")[0]
    assert {gradient.dtype for gradient in rounded.values()} == {torch.bfloat16}
    exact, rounded = (torch.cat([gradients[name].float().flatten() for name in exact]) for gradients in (exact, rounded))
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.98
    assert half.restore(images(32, 32)).isfinite().all()


def test_two_runs_with_one_seed_are_the_same_and_another_seed_is_not():
    runs = []
    for seed in (3, 3, 4):
        restorer = tiny_restorer(seed=seed)
        train(restorer, [tiny_batch(seed=index) for index in range(3)])
        runs.append(torch.cat([parameter.detach().flatten() for parameter in restorer.conditioner.parameters()]))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (7, 9), (16, 16), (40, 70)])
@pytest.mark.parametrize("options", [{}, FROM_ESTIMATE])
def test_images_of_any_size_come_back_at_their_size_in_0_to_1(size, options):
    restored = living(**options).restore(images(*size))
    assert restored.shape == (2, 3, *size) and restored.dtype == torch.float32
    assert restored.isfinite().all() and restored.min() >= 0 and restored.max() <= 1 and not restored.requires_grad


def test_a_seed_is_reproducible_and_another_differs():
    restorer = living()
    first = restorer.restore(images(), seed=5)
    torch.manual_seed(123)
    assert torch.equal(restorer.restore(images(), seed=5), first)
    torch.testing.assert_close(restorer.restore(images()[:1], seed=5), first[:1])  # neighbors in the batch change nothing
    assert not torch.equal(restorer.restore(images(), seed=6), first)


def test_no_steps_return_the_start_itself():
    degraded = images()
    fresh, trained = tiny_restorer(**ESTIMATE), living(**ESTIMATE)
    torch.testing.assert_close(fresh.restore(degraded, 0), degraded)  # a fresh estimate is the degraded image
    estimate = trained.backbone.decode(trained.conditioner(trained.backbone.encode(degraded)).estimate).clamp(0, 1)
    assert torch.equal(trained.restore(degraded, 0), estimate) and not torch.allclose(estimate, degraded, atol=0.1)
    assert torch.equal(trained.restore(degraded, 0, start="estimate"), estimate)
    torch.testing.assert_close(trained.restore(degraded, 0, start="degraded"), degraded)
    torch.testing.assert_close(living().restore(degraded, 0), degraded)


def test_sampling_follows_the_velocity_from_the_noised_start():
    restorer, degraded = living(**ESTIMATE), images()
    noise = torch.randn(3, 16, 16, generator=keyed_generator("restore", 9))  # the same for each image
    encoded = restorer.backbone.encode(degraded)
    conditioning = restorer.conditioner(encoded)
    for start, anchor in (("degraded", encoded), ("estimate", conditioning.estimate)):
        z = 0.6 * anchor + 0.4 * noise
        z = z - 0.2 * restorer.velocity(z, torch.full((2,), 0.4), conditioning)
        z = z - 0.2 * restorer.velocity(z, torch.full((2,), 0.2), conditioning)
        expected = restorer.backbone.decode(z).clamp(0, 1)
        torch.testing.assert_close(restorer.restore(degraded, 2, start=start, sigma_start=0.4, seed=9), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def prompts(tmp_path):
    """A backbone's options: a prompt, and the empty one beside it."""
    generator = torch.Generator().manual_seed(0)
    tokens, pooled = torch.randn(2, 3, 8, generator=generator), torch.randn(2, 8, generator=generator)
    write_prompts(tmp_path / "prompts.safetensors", ["", "sharp"], tokens, pooled, made_with="a test")
    return {"prompt": str(tmp_path / "prompts.safetensors"), "prompt_text": "sharp"}


@pytest.mark.parametrize("size", [(16, 16), (48, 80)])
def test_guidance_leads_away_from_the_empty_prompt_tile_by_tile_and_steered_alike(prompts, size):
    told, empty = living(backbone=prompts, tile=32), living(backbone=prompts | {"prompt_text": ""}, tile=32)
    sigma, conditioning = torch.tensor([0.2, 0.9]), told.conditioner(latents(*size))
    velocity, without = told.velocity(latents(*size), sigma, conditioning), empty.velocity(latents(*size), sigma, conditioning)
    assert not torch.allclose(velocity, without, rtol=1e-2)
    found = told.velocity(latents(*size), sigma, conditioning, guidance=2.5)
    torch.testing.assert_close(found, without + 2.5 * (velocity - without), rtol=1e-4, atol=1e-4)


def test_restoration_is_guided_by_the_flows_own_strength_or_the_one_that_is_asked_for(prompts):
    plain, guided = living(backbone=prompts), living(backbone=prompts, flow={"guidance": 2.5})
    z = torch.randn(3, 16, 16, generator=keyed_generator("restore", 0)).repeat(2, 1, 1, 1)
    conditioning = plain.conditioner(plain.backbone.encode(images()))
    for sigma in (1.0, 0.5):
        z = z - 0.5 * plain.velocity(z, torch.full((2,), sigma), conditioning, guidance=2.5)
    expected = plain.backbone.decode(z).clamp(0, 1)
    torch.testing.assert_close(guided.restore(images()), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain.restore(images(), guidance=2.5), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(guided.restore(images(), guidance=1.0), plain.restore(images()))
    assert not torch.allclose(plain.restore(images()), expected, atol=1e-2)


def test_training_drops_prompts_by_the_draw_of_each_image(prompts):
    batch = tiny_batch(4)
    told, empty = living(backbone=prompts), living(backbone=prompts | {"prompt_text": ""})
    dropping = living(backbone=prompts | {"prompt_dropout": 0.5}, seed=3)
    told.seed = empty.seed = 3
    degraded, clean = told.backbone.encode(batch["lq"]), told.backbone.encode(batch["gt"])
    conditioning = told.conditioner(degraded)
    dropped = dropping.backbone.drop_prompts(batch["key"], 3)
    assert 0 < dropped.sum() < 4
    by_image = []
    for index, drop in enumerate(dropped.tolist()):
        one = conditioning.__class__(**vars(conditioning) | {"residuals": [r[index : index + 1] for r in conditioning.residuals]})
        sides = (side[index : index + 1] for side in (degraded, clean))
        by_image.append(flow_loss(empty if drop else told, *sides, one, batch["key"][index : index + 1]))
    found = flow_loss(dropping, degraded, clean, conditioning, batch["key"])
    torch.testing.assert_close(found, torch.stack(by_image).mean(), rtol=1e-4, atol=1e-5)


def test_a_given_routing_steers_the_restoration():
    restorer = living(**DEEP)
    own = restorer.conditioner(restorer.backbone.encode(images())).routing
    plain = restorer.restore(images())
    assert torch.equal(restorer.restore(images(), routing=own), plain)
    assert not torch.allclose(restorer.restore(images(), routing=uniform_routing(own)), plain, atol=1e-4)


def test_uniform_routing_weighs_all_alike():
    routing = uniform_routing(tiny_restorer().conditioner(latents()).routing)
    assert (routing.inter.weights == 0.25).all() and torch.allclose(routing.intra.weights, torch.tensor(1 / 3))
    assert routing.intra.indices.sort(-1).values.unique(dim=2).flatten(0, 2).tolist() == [[0, 1, 2]] * 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": "middle"}, r"start 'middle' is unknown; choose one of noise, degraded, estimate"),
        ({"start": "middle", "steps": 0}, r"start 'middle' is unknown"),
        ({"sigma_start": 0.0}, r"sigma_start=0.0 is outside \(0, 1\]; to add no noise at all use steps: 0"),
        ({"sigma_start": 1.5}, r"sigma_start=1.5 is outside"),
        ({"steps": -1}, r"steps=-1 is negative; use 0"),
        ({"start": "estimate"}, r"start 'estimate' needs a conditioner with estimate: true; use start: degraded or noise"),
        ({"guidance": -1.0}, r"guidance=-1.0 must be finite and at least 0; 1 is the prompt itself"),
        ({"guidance": 3.0}, r"guidance=3.0 needs the prompt '' beside another one, and this backbone has none; write both"),
    ],
)
def test_a_wrong_start_is_named_with_its_remedy(options, words):
    with pytest.raises(ValueError, match=words):
        tiny_restorer().restore(images(), **options)


@pytest.fixture
def no_tiles(monkeypatch):
    monkeypatch.setattr("mimdit.restorer.restorer.tiled_velocity", lambda *_, **__: pytest.fail("it was tiled"))


def test_what_fits_one_tile_does_not_go_through_the_tiler(no_tiles):
    restorer = living(tile=32)
    assert restorer.restore(images(32, 20)).isfinite().all()
    with pytest.raises(pytest.fail.Exception, match="it was tiled"):
        restorer.restore(images(33, 20))


def test_training_never_tiles(no_tiles):
    restorer = living(tile=16)
    assert restorer.training_step(tiny_batch(2, 32), 0)["loss"].isfinite()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 16), (17, 33)])
def test_padding_mirrors_like_numpy(size):
    picture = images(*size)
    padding = [(0, 0), (0, 0), *((0, -side % 16) for side in size)]
    np.testing.assert_array_equal(pad_by_reflection(picture, 16).numpy(), np.pad(picture.numpy(), padding, mode="reflect"))


def test_parts_that_do_not_fit_are_named():
    with pytest.raises(ValueError) as error:
        Restorer(tiny_backbone(), tiny_conditioner(token_dim=24, token_patch=8), tiny_restorer().balance, tiny_restorer().flow)
    assert "it has token_dim=24, token_patch=8; this backbone needs token_dim=16, token_patch=4" in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"estimate_weight": 1.0}, r"need conditioner.estimate: true; switch it on"),
        ({"flow": {"source": "estimate", "sigma_start": 0.5}}, r"need conditioner.estimate: true; switch it on"),
        ({"flow_norm": "l1"}, r"flow_norm 'l1' is unknown; choose one of mse, rmse, psnr"),
        ({"estimate_norm": "l1"}, r"estimate_norm 'l1' is unknown; choose one of rmse, psnr"),
        ({"flow_weight": -1.0}, r"flow_weight=-1.0 is negative; use 0 to switch it off"),
        ({"estimate_weight": -1.0, "conditioner": {"estimate": True}}, r"estimate_weight=-1.0 is negative; use 0 to switch it off"),
        ({"identify_weight": -1.0, "conditioner": {"identify": True}}, r"identify_weight=-1.0 is negative; use 0 to switch it off"),
        ({"flow_images": -1}, r"flow_images=-1 is negative; use 0 to switch it off"),
        ({"flow_weight": 0.0}, r"no loss trains the restorer; set flow_weight, estimate_weight or identify_weight above 0"),
        ({"harm_weight": -1.0}, r"harm_weight=-1.0 is negative"),
        ({"harm_weight": 1.0}, r"set estimate_weight too, or use harm_weight: 0"),
        ({"gate_estimate": "labels"}, r"set estimate_weight too, or use gate_estimate: none"),
        ({"gate_estimate": "label"}, r"gate_estimate 'label' is unknown; choose one of none, labels, identified"),
        (
            {"gate_estimate": "identified", "estimate_weight": 1.0, "conditioner": {"estimate": True, "identify": True}},
            r"identified needs a caution above 0",
        ),
        ({"ema_decay": 1.0}, r"ema_decay=1.0 is outside"),
        ({"flow": {"guidance": 3.0}}, r"flow guidance=3.0 needs the prompt '' beside another one"),
    ],
)
def test_a_wrong_argument_is_named_with_its_remedy(options, words):
    with pytest.raises(ValueError, match=words):
        tiny_restorer(**options)
