"""Spatial attention experts."""

import pytest
import torch

from mimdit.conditioner.dispatch import Rows
from mimdit.conditioner.experts import SpatialAttention
from mimdit.conditioner.experts.spatial import attend
from tests.tiny_models import randomize


def test_every_position_sees_the_whole_image():
    expert = SpatialAttention(4, 4, 1)
    randomize(expert, 0, scale=1.0)
    images = torch.randn(1, 4, 24, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    output = expert(images, Rows.in_order(torch.zeros(1, 1, dtype=torch.long)), torch.ones(1, 1))
    gradient = torch.autograd.grad(output[0, :, 0, 0].sum(), images)[0]
    assert (gradient.abs().sum(dim=1) > 0).all()


def test_sizes_that_the_grid_does_not_divide_are_pooled_too():
    expert = SpatialAttention(4, 4, 1)
    output = expert(torch.ones(1, 4, 11, 21), Rows.in_order(torch.zeros(1, 1, dtype=torch.long)), torch.ones(1, 1))
    # a constant image stays constant: attention averages equal values
    torch.testing.assert_close(output, output[..., :1, :1].expand_as(output))


@pytest.mark.parametrize("biased", [False, True])
def test_attention_is_torchs(biased):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, n, generator=generator, dtype=torch.float64) for n in (7, 4, 4))
    bias = torch.randn(7, 4, generator=generator, dtype=torch.float64) if biased else None
    expected = torch.nn.functional.scaled_dot_product_attention(query.mT, key.mT, value.mT, attn_mask=bias).mT
    torch.testing.assert_close(attend(query, key, value, bias), expected)
