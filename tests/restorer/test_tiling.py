"""Tiles: their places, their blending, and their residuals."""

import pytest
import torch

from mimdit.restorer.tiling import tile_starts, tiled_velocity
from tests.tiny_models import tiny_backbone, tiny_restorer


class Stub:
    """A backbone whose velocity depends on each pixel and token only; it records its tiles."""

    token_patch = 4

    def __init__(self):
        self.tiles = []

    def velocity(self, latents, sigma, residuals, **_):
        self.tiles.append(tuple(latents.shape[2:]))
        height, width = (size // self.token_patch for size in latents.shape[2:])
        velocity = latents.square() + sigma[:, None, None, None]
        for residual in residuals or []:
            grid = residual[..., :1].transpose(1, 2).unflatten(2, (height, width))
            velocity = velocity + torch.nn.functional.interpolate(grid, scale_factor=self.token_patch)
        return velocity


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(40, 72), (64, 20), (36, 36)])
@pytest.mark.parametrize("overlap", [0, 4, 10, 28])
def test_a_pixelwise_velocity_is_the_same_without_tiles(size, overlap):
    latents, sigma = random(2, 3, *size), torch.tensor([0.2, 0.9])
    residuals = [random(2, size[0] // 4 * (size[1] // 4), 5) * scale for scale in (1, 2)]
    stub = Stub()
    tiled = tiled_velocity(stub, latents, sigma, residuals, tile=32, overlap=overlap)
    torch.testing.assert_close(tiled, Stub().velocity(latents, sigma, residuals), rtol=1e-5, atol=1e-5)
    assert len(stub.tiles) > 1 and all(max(tile) <= 32 for tile in stub.tiles)


@pytest.mark.parametrize("at_once", [2, 3, 100])
def test_tiles_that_go_through_together_give_what_single_ones_give(at_once):
    latents, sigma = random(2, 3, 40, 72), torch.tensor([0.2, 0.9])
    residuals = [random(2, 10 * 18, 5)]
    settings = {"tile": 16, "overlap": 4, "scale": lambda parts, levels: [part * levels[:, None, None] for part in parts]}
    together = tiled_velocity(Stub(), latents, sigma, residuals, at_once=at_once, **settings)
    torch.testing.assert_close(together, tiled_velocity(Stub(), latents, sigma, residuals, **settings))
    scaled = [residuals[0] * sigma[:, None, None]]
    torch.testing.assert_close(together, Stub().velocity(latents, sigma, scaled), rtol=1e-5, atol=1e-5)


def test_what_fits_is_not_cut():
    stub, latents = Stub(), random(1, 3, 32, 24)
    tiled_velocity(stub, latents, torch.ones(1), None, tile=32, overlap=8)
    assert stub.tiles == [(32, 24)]


def test_tiles_blend_gradually():
    """Two tiles that disagree by one: the transition is a straight ramp over the overlap."""

    class Disagreeing(Stub):
        def velocity(self, latents, sigma, residuals, **_):
            super().velocity(latents, sigma, residuals)
            return torch.full_like(latents, float(len(self.tiles) - 1))

    blend = tiled_velocity(Disagreeing(), torch.zeros(1, 1, 16, 48), torch.ones(1), None, tile=32, overlap=16)[0, 0, 8]
    expected = torch.cat([torch.zeros(16), torch.arange(1, 17) / 17, torch.ones(16)])
    torch.testing.assert_close(blend, expected)


@pytest.mark.parametrize("patch", [1, 2, 8])
@pytest.mark.parametrize("overlap", [0, 8, 9, 24])
def test_starts_cover_all_and_overlap_enough(patch, overlap):
    tile = 32
    for size in range(patch * (40 // patch), 300, patch):
        starts = tile_starts(size, tile, overlap, patch)
        assert starts[0] == 0 and starts[-1] + tile == max(size, tile)
        assert all(start % patch == 0 for start in starts)
        assert all(left + tile - right >= overlap for left, right in zip(starts, starts[1:], strict=False))
        # one tile fewer, at patches as coarse as these, would not have been enough
        stride = (tile - overlap) // patch * patch
        assert (len(starts) - 2) * stride + tile < size


@pytest.mark.parametrize(("tile", "overlap"), [(30, 8), (32, 32), (32, 29), (32, -4)])
def test_tiles_that_cannot_advance_are_an_error(tile, overlap):
    with pytest.raises(ValueError, match=rf"tile={tile} with overlap={overlap} .* multiple of 4 and overlap at most tile - 4"):
        tile_starts(64, tile, overlap, 4)


def test_a_real_backbone_takes_images_beyond_its_positions():
    backbone = tiny_backbone()
    assert backbone.max_size == 64
    velocity = tiled_velocity(backbone, random(1, 3, 80, 96), torch.ones(1), None, tile=64, overlap=16)
    assert velocity.shape == (1, 3, 80, 96) and velocity.isfinite().all()


def test_restorer_steers_every_tile_by_the_whole_image():
    restorer = tiny_restorer(tile=16, overlap=8)
    torch.nn.init.normal_(restorer.conditioner.projections[0].linear.weight)
    latents, sigma = random(1, 3, 16, 32), torch.full((1,), 0.5)
    conditioning = restorer.conditioner(latents)
    tiled = restorer.velocity(latents, sigma, conditioning)
    residuals = [r.unflatten(1, (4, 8)) for r in restorer.conditioner.timestep_scale(conditioning.residuals, sigma)]
    first = restorer.backbone.velocity(latents[..., :16].contiguous(), sigma, [r[:, :, :4].flatten(1, 2) for r in residuals])
    torch.testing.assert_close(tiled[..., :8], first[..., :8])  # where no other tile reaches


@pytest.mark.parametrize("tile", [30, 0, 68])
def test_a_tile_that_does_not_fit_the_backbone_is_an_error(tile):
    with pytest.raises(ValueError, match=rf"tile={tile} must be a multiple of the backbone's patch 4 and at most 64"):
        tiny_restorer(tile=tile)
