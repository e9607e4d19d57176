"""The conditioner as a whole."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from mimdit.conditioner import MoEConditioner
from mimdit.routing import router_features
from tests.tiny_models import randomize, tiny_conditioner


def latents(height=16, width=32, batch=3):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def living(**options):
    conditioner = tiny_conditioner(**{"num_layers": 4, "num_blocks": 2} | options)
    randomize(conditioner, 0)
    return conditioner


def test_shapes_of_the_output():
    said = living(estimate=True)(latents())
    assert [tuple(residual.shape) for residual in said.residuals] == [(3, 4 * 8, 16)] * 2
    assert said.estimate.shape == (3, 3, 16, 32)
    assert said.routing.inter.probs.shape == (2, 3, 4) and said.routing.intra.probs.shape == (2, 4, 3, 3)
    assert said.routing.intra.indices.shape == (2, 4, 3, 2) and said.routing.features_MBF.shape == (2, 3, 16)
    assert said.routing.groups == ("spatial", "channel", "swin", "se") and said.rerouted is None
    assert living()(latents()).estimate is None


def test_gates_read_the_features_of_the_embedded_image():
    conditioner = living()
    said = conditioner(latents())
    embedded = conditioner.embed(torch.nn.functional.pixel_unshuffle(latents(), 2))
    torch.testing.assert_close(said.routing.features_MBF[0], router_features(embedded))
    assert not said.routing.features_MBF.requires_grad


def test_a_given_routing_is_used_and_returned():
    conditioner = living()
    own = conditioner(latents()).routing
    other = own.map(lambda tensor: tensor.flip(-2))  # every image by its neighbor's gates
    forced = conditioner(latents(), other)
    assert torch.equal(forced.routing.inter.weights, other.inter.weights)
    assert torch.equal(forced.routing.intra.indices, other.intra.indices)
    assert not torch.allclose(forced.residuals[1], conditioner(latents()).residuals[1], rtol=1e-3)
    again = conditioner(latents(), own)
    assert torch.equal(again.residuals[1], conditioner(latents()).residuals[1])


def test_rerouting_decides_as_the_forward_did_and_stops_at_the_routers():
    conditioner = living(inter="sparse")
    earlier = conditioner(latents()).routing.features_MBF
    said = conditioner(latents().flip(0), reroute=[earlier])
    torch.testing.assert_close(said.rerouted.intra.logits[:, :, 3:], said.routing.intra.logits)
    torch.testing.assert_close(said.rerouted.inter.weights[:, :3], said.routing.inter.weights.flip(1))
    loss = said.rerouted.inter.logits.square().sum() + said.rerouted.intra.logits.square().sum()
    reached = {name: g for (name, _), g in zip(conditioner.named_parameters(), gradients(loss, conditioner), strict=True) if g is not None}
    assert set(reached) == {name for name, _ in conditioner.named_parameters() if ".router." in name}
    assert all(gradient.abs().sum() > 0 for gradient in reached.values())


def gradients(loss, module):
    return torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)


@pytest.mark.parametrize(
    ("token_patch", "patch_size", "moe_stride", "multiple"),
    [(4, 2, 1, 16), (8, 2, 1, 16), (2, 2, 1, 16), (2, 1, 1, 8), (6, 2, 1, 48), (16, 1, 1, 16), (8, 2, 2, 32), (6, 1, 3, 24)],
)
def test_the_multiple_fits_tokens_and_windows(token_patch, patch_size, moe_stride, multiple):
    conditioner = tiny_conditioner(token_patch=token_patch, patch_size=patch_size, moe_stride=moe_stride)
    assert conditioner.multiple == multiple
    assert conditioner(torch.zeros(1, 3, multiple, 2 * multiple)).residuals[0].shape[1] == 2 * (multiple // token_patch) ** 2


def test_the_multiple_fits_the_cells_of_the_tone():
    conditioner = tiny_conditioner(estimate=True, tone_powers=[0, 1], tone_grid=12)
    assert conditioner.multiple == 48
    assert conditioner(torch.zeros(1, 3, 48, 96)).estimate.shape == (1, 3, 48, 96)
    assert tiny_conditioner(tone_grid=12).multiple == 16  # no tone, no cells


def test_odd_blocks_shift_their_windows():
    blocks = tiny_conditioner(num_layers=4, num_blocks=3).blocks
    assert [block.inter_moe.groups[2].experts.shift for block in blocks] == [0, 4, 0]


def test_black_image_gives_finite_gradients():
    conditioner = living(estimate=True, tone_powers=[0, 0.4, 1, 2])
    said = conditioner(torch.full((1, 3, 16, 16), -1.0))
    (said.estimate.sum() + sum(residual.sum() for residual in said.residuals)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in conditioner.parameters() if parameter.grad is not None)


def test_saved_and_loaded_its_output_is_equal_to_the_bit(tmp_path):
    conditioner = living(estimate=True, tone_powers=[0, 1], groups=["se", "swin"], intra="dense")
    conditioner.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conditioner.safetensors", "config.json"]
    again = MoEConditioner.from_pretrained(tmp_path)
    assert torch.equal(again(latents()).estimate, conditioner(latents()).estimate)
    assert again.config == conditioner.config == json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("missing", ["config.json", "conditioner.safetensors"])
def test_a_folder_that_lacks_a_file_is_named(tmp_path, missing):
    living().save_pretrained(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ValueError, match=f"{tmp_path.name} is not a conditioner folder: {missing} is missing; point to"):
        MoEConditioner.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch_size": 3}, ("patch_size=3", "token_patch=4")),
        ({"groups": []}, ("groups is empty", "spatial, channel, swin, se")),
        ({"groups": ["fourier"]}, ("'fourier'", "spatial, channel, swin, se")),
        ({"num_blocks": 2}, ("num_blocks=2", "use 1..1")),
        ({"num_blocks": 0}, ("num_blocks=0", "use 1..1")),
        ({"moe_stride": 0}, ("moe_stride=0", "at least 1")),
        ({"moe_dim": 0}, ("moe_dim=0", "at least 1", "null", "dim=8")),
        ({"feed_forward": "dense"}, ("'dense'", "gated, conv")),
        ({"confidence": True}, ("confidence", "identify: true and estimate: true")),
        ({"confidence": True, "identify": True}, ("confidence", "identify: true and estimate: true")),
        ({"confidence": True, "estimate": True}, ("confidence", "identify: true and estimate: true")),
        ({"tone_grid": -1}, ("tone_grid=-1", "use 0")),
        ({"tone_widths": [64, 0]}, ("tone_widths=[64, 0]", "leave it empty")),
        ({"dim": 0}, ("dim=0", "at least 1")),
        ({"patch_size": 0}, ("patch_size=0", "at least 1")),
        ({"num_experts": 0}, ("num_experts=0", "at least 1")),
        ({"inter": "sparse", "inter_top_k": 0}, ("inter_top_k=0", "at least 1")),
        ({"expansion": 0.01}, ("expansion=0.01", "dim=8", "1 / dim")),
        ({"tone_powers": [1.0]}, ("tone_powers=[1.0]", "estimate: true", "tone_powers: []")),
        ({"top_k": 4}, ("top_k=4 of 3", "1..3")),
        ({"top_k": 0}, ("top_k=0", "at least 1")),
        ({"hidden": 0}, ("hidden=0", "at least 1")),
        ({"inter": "soft"}, ("'soft'", "dense, sparse, uniform")),
        ({"inter": "sparse", "inter_top_k": 5}, ("top_k=5 of 4", "1..4")),
        ({"intra": "soft"}, ("'soft'", "sparse, dense, none")),
    ],
)
def test_a_wrong_argument_is_named_with_its_remedy(options, words):
    with pytest.raises(ValueError) as error:
        tiny_conditioner(**options)
    assert all(word in str(error.value) for word in words), error.value


def test_a_size_that_does_not_fit_is_named_with_its_remedy():
    with pytest.raises(ValueError, match=r"20x16 .* pad height and width to multiples of 16"):
        living()(torch.zeros(1, 3, 20, 16))


def test_parameter_counts_are_those_of_the_closed_form():
    dim, hidden, experts, top_k, token_dim = 16, 6, 5, 2, 24
    conditioner = MoEConditioner(3, token_dim, 4, 4, dim=dim, hidden=hidden, num_blocks=2, num_experts=experts, top_k=top_k)
    squeezed = 4
    sub_experts = (
        (4 * dim * hidden)  # spatial: query, key, value, out
        + (4 * dim * hidden + 9 * 3 * hidden + 1)  # channel: and a filter and a temperature
        + (4 * dim * hidden + 15**2)  # swin: and a position bias
        + (3 * dim * hidden + 9 * 2 * hidden + 2 * squeezed * hidden)  # se
    )
    routers = (2 * dim + 1) * (4 + 4 * experts)
    feed_forward = (dim + 1) * 2 * dim + 10 * 2 * dim + (dim + 1) * dim + 2 * dim
    shared = (9 * 12 + 1) * dim + 2 * (routers + feed_forward + (4 * dim + 1) * token_dim) + (64 + 1) * 64 + (64 + 1) * 3 * token_dim
    assert conditioner.parameter_counts() == (shared + 2 * experts * sub_experts, shared + 2 * top_k * sub_experts)


@pytest.mark.parametrize("intra", ["dense", "none"])
def test_without_a_choice_all_parameters_are_active(intra):
    stored, active = tiny_conditioner(intra=intra).parameter_counts()
    assert stored == active == sum(parameter.numel() for parameter in tiny_conditioner(intra=intra).parameters())


def test_the_full_size_keeps_to_its_budget_of_flops():
    config = yaml.safe_load((Path(__file__).parents[2] / "configs/conditioner/sd35_medium.yaml").read_text())["init_args"]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        MoEConditioner(**config)(torch.empty(1, 16, 64, 64))  # the latent of 512 x 512 pixels
    assert counter.get_total_flops() <= 0.139e12  # a tenth of a training step through the frozen SD3.5-medium, a third of it the forward
