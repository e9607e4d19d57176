"""The embedded weights on CUDA: the pixels of the CPU, within two levels of 255."""

import numpy as np
import pytest
import torch

from mimdit.backbone import DiTBackbone
from mimdit.restorer.pixels import restore_pixels
from mimdit.restorer.restorer import Restorer
from tests.cuda.devices import DEVICE, assert_near, moved

pytestmark = pytest.mark.cuda


def photograph(height=104, width=136):
    """A smooth scene with noise, uint8."""
    y, x = np.mgrid[0:height, 0:width] / 40
    scene = np.stack([np.sin(x + y), np.cos(x - y), np.sin(2 * x) * np.cos(y)], axis=2) * 0.3 + 0.5
    noise = np.random.default_rng(0).standard_normal(scene.shape) * 0.05
    return (np.clip(scene + noise, 0, 1) * 255).round().astype(np.uint8)


@pytest.mark.parametrize("options", [{}, {"steps": 2}, {"tile": 64}], ids=["estimate", "two steps", "in pieces"])
def test_a_restored_photograph_has_the_pixels_of_the_cpu(options):
    restorer = Restorer.from_pretrained()
    expected = restore_pixels(restorer, photograph(), **options).astype(int)
    found = restore_pixels(moved(restorer), photograph(), **options).astype(int)
    difference = np.abs(found - expected)
    assert difference.max() <= 2 and difference.mean() < 0.05 and np.abs(expected - photograph()).mean() > 0.5


@torch.no_grad()
def test_the_backbone_predicts_the_velocity_of_the_cpu_and_bf16_is_near():
    backbone = DiTBackbone().eval()
    latents, sigma = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.9])
    expected = {"velocity": backbone.velocity(latents, sigma)}
    moved(backbone)
    assert_near({"velocity": backbone.velocity(moved(latents), moved(sigma))}, expected, 1e-3)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        near = backbone.velocity(moved(latents), moved(sigma))
    assert_near({"velocity": near}, expected, 0.1)
