"""Steering the gates by expert group and by degradation."""

import numpy as np
import pytest
import torch

from mimdit.core.batch import ATOMS
from mimdit.plots.gate_chart import expert_shares, gate_chart
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.steering import MeasuredGates, gains, parse_steer
from tests.tiny_models import ARCHITECTURE, randomize, tiny_restorer

GROUPS = ("spatial", "channel", "swin", "se")


def restorer(**options):
    made = tiny_restorer(conditioner={"estimate": True, "num_layers": 3, "num_blocks": 2} | options,
                         backbone={"architecture": ARCHITECTURE | {"num_layers": 3}},
                         flow={"start": "estimate", "sigma_start": 0.3}, tile=32, overlap=8)  # fmt: skip
    randomize(made.conditioner, 1, scale=0.1)
    return made.eval()


def images(height=70, width=50):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def restored(model, **settings):
    """The restored image and the routing."""
    seen = []
    return model.restore(images(), on_decisions=seen.append, **settings), seen[0].routing


@pytest.mark.parametrize("tile", [None, 40])
def test_a_group_without_weight_takes_no_part_and_the_others_share_its_own(tile):
    model = restorer()
    plain, routing = restored(model, tile=tile)
    steered, changed = restored(model, tile=tile, steer={"channel": 0})
    assert (changed.inter.weights[..., 1] == 0).all() and not torch.allclose(plain, steered, atol=1e-4)
    expected = routing.inter.weights[0].clone()
    expected[:, 1] = 0
    torch.testing.assert_close(changed.inter.weights[0], expected / expected.sum(dim=-1, keepdim=True))
    unchanged, _ = restored(model, tile=tile, steer={"channel": 1.0})
    torch.testing.assert_close(unchanged, plain)


def test_steering_in_pieces_is_steering_in_one():
    model = restorer()
    steer = {"swin": 3, "se": 0.2}
    torch.testing.assert_close(model.restore(images(), steer=steer, tile=30), model.restore(images(), steer=steer), rtol=0, atol=1e-5)


def test_a_degradation_moves_the_gates_the_way_it_was_measured():
    clean, haze = torch.tensor([[0.25, 0.25, 0.25, 0.25]]), torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    measured = MeasuredGates({"clean": clean, "haze": haze}, {"clean": 5, "haze": 5})
    away = gains({"haze": 0}, GROUPS, 1, measured)
    torch.testing.assert_close(haze * away / (haze * away).sum(), clean, rtol=1e-4, atol=1e-4)
    twice = gains({"haze": 2}, GROUPS, 1, measured)
    torch.testing.assert_close(clean * twice / (clean * twice).sum(), haze, rtol=1e-4, atol=1e-4)
    assert torch.equal(gains({"haze": 1}, GROUPS, 1, measured), torch.ones(1, 4))


def test_measured_gates_are_means_over_images_with_one_degradation_and_travel_with_the_folder(tmp_path):
    model = restorer()
    seen = []
    model.restore(torch.cat([images(32, 32), images(32, 32) * 0.2, images(32, 32) * 0.5]), on_decisions=seen.append)
    routing = seen[0].routing
    degradation = torch.zeros(3, len(ATOMS))
    degradation[1, ATOMS.index("lowlight")] = degradation[2, ATOMS.index("lowlight")] = degradation[2, ATOMS.index("haze")] = 1
    model.measured_gates = MeasuredGates.over([(routing, degradation)])
    assert model.measured_gates.images == {"clean": 1, "lowlight": 1}
    assert torch.equal(model.measured_gates.means["lowlight"], routing.inter.weights[:, 1])
    model.save_pretrained(tmp_path, average=False)
    again = Restorer.from_pretrained(tmp_path, backbone=model.backbone)
    assert again.measured_gates.images == model.measured_gates.images
    assert torch.equal(again.restore(images(), steer={"lowlight": 2}), model.restore(images(), steer={"lowlight": 2}))


@pytest.mark.parametrize(
    ("steer", "words"),
    [
        ({"fog": 0}, "steer 'fog' is neither a group nor a degradation; choose from spatial, channel, swin, se, blur"),
        ({"haze": 0}, "does not say how haze moves the gates; write it by mimdit export --data=…, or steer groups: spatial"),
        ({"swin": -1}, "steer swin=-1 must be finite and at least 0"),
        (dict.fromkeys(GROUPS, 0), "steer leaves no group at all"),
    ],
)
def test_errors_name_what_cannot_be_steered(steer, words):
    with pytest.raises(ValueError, match=words):
        restorer().sampling_settings(steer=steer)


def test_factors_are_parsed():
    assert parse_steer("haze=0, channel=2.5") == {"haze": 0.0, "channel": 2.5}
    for text in ("haze", "haze=much", ""):
        with pytest.raises(ValueError, match="cannot be read; write name=value"):
            parse_steer(text)


def test_the_chart_shows_shares_that_make_a_whole():
    _, routing = restored(restorer())
    shares = expert_shares(routing)
    assert shares.shape == (2, 4, 3)
    torch.testing.assert_close(shares.sum(dim=(1, 2)), torch.ones(2))
    assert ((shares > 0).sum(dim=2) == 2).all()  # top_k
    chart = gate_chart(routing, title="a.png")
    assert chart.mode == "RGB" and 300 < chart.width < 900 and chart.height > 100


def test_the_footer_lies_below_the_chart_and_changes_nothing_above():
    _, routing = restored(restorer())
    plain = gate_chart(routing, title="a.png")
    noted = gate_chart(routing, title="a.png", footer=", ".join(f"degradation{index} {index} %" for index in range(7)))
    below = np.asarray(noted.crop((0, plain.height, *noted.size)))
    assert noted.width == plain.width and noted.height > plain.height + 10 and (below < 128).any()
    assert (below[:, -3:] == 255).all()  # it is wrapped
