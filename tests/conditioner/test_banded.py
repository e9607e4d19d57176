"""The conditioner band by band against the conditioner in one piece."""

import pytest
import torch

from mimdit.conditioner import banded
from mimdit.conditioner.band import Band, bands
from mimdit.conditioner.banded import condition_in_bands
from mimdit.routing.router import PooledFeatures, router_features
from tests.tiny_models import randomise, tiny_conditioner

TONE = {"estimate": True, "tone_powers": [0, 0.4, 1]}


def living(**options):
    conditioner = tiny_conditioner(**{"num_layers": 4, "num_blocks": 3} | options)
    randomise(conditioner, 0)
    return conditioner


def uneven_latents():
    """Two images that differ from top to bottom, so that no band can stand for the whole."""
    noise = torch.randn(2, 3, 192, 64, generator=torch.Generator().manual_seed(0))
    return (noise * torch.linspace(0.1, 1, 192)[:, None] + torch.linspace(-1, 1, 192)[:, None]).clamp(-1, 1)


def distance(one, other):
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize(
    "options",
    [
        {"groups": ["spatial"]},
        {"groups": ["channel"]},
        {"groups": ["swin"]},
        {"groups": ["se"]},
        {"moe_stride": 2, "patch_size": 1},
        {"intra": "dense", "inter": "sparse"},
        {"intra": "none", "moe_stride": 4},
        TONE | {"tone_histogram": True},
        TONE | {"tone_grid": 8, "moe_stride": 2},
    ],
    ids=str,
)
def test_bands_say_what_one_piece_says(options):
    conditioner, latents = living(**options), uneven_latents()
    with torch.no_grad():
        whole = conditioner(latents)
    cut = condition_in_bands(conditioner, latents, area=2 * 64 * 64)
    assert all(distance(one, other) < 1e-5 for one, other in zip(cut.residuals, whole.residuals, strict=True))
    assert whole.estimate is None or distance(cut.estimate, whole.estimate) < 1e-5
    assert torch.equal(cut.routing.intra.indices, whole.routing.intra.indices)
    torch.testing.assert_close(cut.routing.features_MBF, whole.routing.features_MBF, rtol=1e-4, atol=1e-5)


def test_the_comparison_would_notice_a_missing_neighbour(monkeypatch):
    """Without halo the same comparison must fail, or it shows nothing."""
    conditioner, latents = living(groups=["swin", "se"]), uneven_latents()
    with torch.no_grad():
        whole = conditioner(latents)
    monkeypatch.setattr(banded, "bands", lambda *size, halo, **grid: bands(*size, halo=0, **grid))
    cut = condition_in_bands(conditioner, latents, area=2 * 64 * 64)
    assert distance(cut.residuals[-1], whole.residuals[-1]) > 1e-3


def test_a_given_routing_is_obeyed_in_bands():
    conditioner, latents = living(), uneven_latents()
    with torch.no_grad():
        other = conditioner(latents).routing.map(lambda tensor: tensor.flip(-2))
        whole = conditioner(latents, other)
    cut = condition_in_bands(conditioner, latents, 2 * 64 * 64, other)
    assert torch.equal(cut.routing.intra.indices, other.intra.indices)
    assert distance(cut.residuals[-1], whole.residuals[-1]) < 1e-5


@pytest.mark.parametrize("area", [1, 64 * 48, 64 * 200, 10**9])
def test_bands_cover_every_row_once_and_see_their_neighbours(area):
    cut = bands(192, 64, area=area, multiple=16, halo=8)
    rows = torch.arange(192.0).view(1, 1, 192, 1)
    assert torch.equal(torch.cat([band.own(band.cut(rows)) for band in cut], dim=2), rows)
    for band in cut:
        assert band.top % 16 == 0 and band.above == min(8, band.top) and band.below == min(8, 192 - band.bottom)
        assert (band.above + band.rows + band.below) * 64 <= max(area, 32 * 64)
    assert cut[0].coarser(8).finer(8) == cut[0] == Band(0, cut[0].rows, 0, min(8, 192 - cut[0].rows), 192)


def test_features_of_pieces_are_those_of_the_whole_also_far_from_zero():
    image = torch.randn(2, 5, 60, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.1 + 100
    pooled = PooledFeatures()
    for rows in image.float().split([1, 40, 19], dim=2):
        pooled.add(rows)
    std, mean = torch.std_mean(image, dim=(2, 3), correction=0)
    expected = torch.cat([mean, (std + 1e-4).log()], dim=1)
    torch.testing.assert_close(pooled.features().double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pooled.features(), router_features(image.float()), rtol=1e-4, atol=1e-4)
