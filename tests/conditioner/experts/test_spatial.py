"""Spatial attention experts."""

import torch

from mimdit.conditioner.dispatch import Rows
from mimdit.conditioner.experts import SpatialAttention
from tests.tiny_models import randomise


def test_every_position_sees_the_whole_image():
    expert = SpatialAttention(4, 4, 1)
    randomise(expert, 0, scale=1.0)
    images = torch.randn(1, 4, 24, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    output = expert(images, Rows.in_order(torch.zeros(1, 1, dtype=torch.long)), torch.ones(1, 1))
    gradient = torch.autograd.grad(output[0, :, 0, 0].sum(), images)[0]
    assert (gradient.abs().sum(dim=1) > 0).all()


def test_sizes_that_the_grid_does_not_divide_are_pooled_too():
    expert = SpatialAttention(4, 4, 1)
    output = expert(torch.ones(1, 4, 11, 21), Rows.in_order(torch.zeros(1, 1, dtype=torch.long)), torch.ones(1, 1))
    # a constant image stays constant: attention averages equal values
    torch.testing.assert_close(output, output[..., :1, :1].expand_as(output))
