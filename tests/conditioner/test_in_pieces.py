"""The conditioner piece by piece against the conditioner in one piece."""

import pytest
import torch

from mimdit.conditioner import in_pieces
from mimdit.conditioner.in_pieces import condition_in_pieces
from mimdit.conditioner.piece import Piece, Span, pieces
from mimdit.routing.router import PooledFeatures, router_features
from tests.tiny_models import randomize, tiny_conditioner

TONE = {"estimate": True, "tone_powers": [0, 0.4, 1]}


def living(**options):
    conditioner = tiny_conditioner(**{"num_layers": 4, "num_blocks": 3} | options)
    randomize(conditioner, 0)
    return conditioner


def uneven_latents():
    """Two images that differ from top to bottom and from left to right, so that no piece can stand for the whole."""
    noise = torch.randn(2, 3, 192, 128, generator=torch.Generator().manual_seed(0))
    light = torch.linspace(-1, 1, 192)[:, None] + torch.linspace(-0.5, 0.5, 128)
    return (noise * torch.linspace(0.1, 1, 192)[:, None] + light).clamp(-1, 1)


def distance(one, other):
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("area", [2 * 64 * 64, 2 * 128 * 80], ids=["squares", "rows"])
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
        TONE | {"tone_grid": 8, "tone_widths": [16, 8], "tone_all_blocks": True},
        TONE | {"moe_stride": 2, "moe_dim": 24, "feed_forward": "conv"},
        TONE | {"moe_dim": 12, "feed_forward": "conv", "identify": True, "confidence": True},
        TONE | {"tone_grid": 8, "moe_stride": 4, "moe_dim": 12, "identify": True, "confidence": True},
    ],
    ids=str,
)
def test_pieces_equal_one_piece(options, area):
    conditioner, latents = living(**options), uneven_latents()
    with torch.no_grad():
        whole = conditioner(latents)
    cut = condition_in_pieces(conditioner, latents, area=area)
    assert all(distance(one, other) < 1e-5 for one, other in zip(cut.residuals, whole.residuals, strict=True))
    assert whole.estimate is None or distance(cut.estimate, whole.estimate) < 1e-5
    assert whole.identified is None or distance(cut.identified, whole.identified) < 1e-5
    assert torch.equal(cut.routing.intra.indices, whole.routing.intra.indices)
    torch.testing.assert_close(cut.routing.features_MBF, whole.routing.features_MBF, rtol=1e-4, atol=1e-5)


def test_the_comparison_would_notice_a_missing_neighbor(monkeypatch):
    """Without halo the same comparison must fail, or it shows nothing."""
    conditioner, latents = living(groups=["swin", "se"]), uneven_latents()
    with torch.no_grad():
        whole = conditioner(latents)
    monkeypatch.setattr(in_pieces, "pieces", lambda *size, halo, **grid: pieces(*size, halo=0, **grid))
    cut = condition_in_pieces(conditioner, latents, area=2 * 64 * 64)
    assert distance(cut.residuals[-1], whole.residuals[-1]) > 1e-3


def test_a_given_routing_is_used_in_pieces():
    conditioner, latents = living(), uneven_latents()
    with torch.no_grad():
        other = conditioner(latents).routing.map(lambda tensor: tensor.flip(-2))
        whole = conditioner(latents, other)
    cut = condition_in_pieces(conditioner, latents, 2 * 64 * 64, other)
    assert torch.equal(cut.routing.intra.indices, other.intra.indices)
    assert distance(cut.residuals[-1], whole.residuals[-1]) < 1e-5


@pytest.mark.parametrize("given", [False, True], ids=["own routing", "given routing"])
def test_gains_scale_the_groups_in_pieces_as_in_one_piece(given):
    conditioner, latents = living(), uneven_latents()
    gains = torch.tensor([[0, 1.0, 2, 3], [1, 0, 0, 2], [4, 1, 1, 1]])
    with torch.no_grad():
        plain = conditioner(latents)
        routing = plain.routing if given else None
        whole = conditioner(latents, routing, gains_MG=gains)
    cut = condition_in_pieces(conditioner, latents, 2 * 64 * 64, routing, gains_MG=gains)
    assert (cut.routing.inter.weights[:2] == 0).any() and distance(whole.residuals[-1], plain.residuals[-1]) > 1e-3
    torch.testing.assert_close(cut.routing.inter.weights, whole.routing.inter.weights, rtol=1e-4, atol=1e-5)
    assert distance(cut.residuals[-1], whole.residuals[-1]) < 1e-5


@pytest.mark.parametrize("area", [1, 64 * 48, 64 * 200, 160 * 64, 10**9])
def test_pieces_cover_every_position_once_and_see_their_neighbors(area):
    cut, image = pieces(192, 160, area=area, multiple=16, halo=8), torch.arange(192.0 * 160).view(1, 1, 192, 160)
    covered, times = torch.zeros_like(image), torch.zeros_like(image)
    for piece in cut:
        piece.put(covered, piece.own(piece.cut(image)))
        times[:, :, piece.down.own, piece.across.own] += 1
        for span in (piece.down, piece.across):
            assert span.start % 16 == 0 and span.before == min(8, span.start) and span.after == min(8, span.whole - span.own.stop)
        assert piece.cut(image).numel() <= max(area, 32 * 32)
    assert torch.equal(covered, image) and (times == 1).all()
    assert (len(cut) == 1) == (area >= 192 * 160)
    assert cut[0].coarser(8).finer(8) == cut[0]


def test_a_wide_image_is_cut_into_squares():
    """Rows of the whole width would be mostly halo."""
    cut = pieces(4096, 4096, area=256 * 256, multiple=16, halo=16)
    assert cut[0] == Piece(Span(0, 224, 0, 16, 4096), Span(0, 224, 0, 16, 4096))


def test_features_of_pieces_are_those_of_the_whole_also_far_from_zero():
    image = torch.randn(2, 5, 60, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.1 + 100
    pooled = PooledFeatures()
    for rows in image.float().split([1, 40, 19], dim=2):
        pooled.add(rows)
    std, mean = torch.std_mean(image, dim=(2, 3), correction=0)
    expected = torch.cat([mean, (std + 1e-4).log()], dim=1)
    torch.testing.assert_close(pooled.features().double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pooled.features(), router_features(image.float()), rtol=1e-4, atol=1e-4)
