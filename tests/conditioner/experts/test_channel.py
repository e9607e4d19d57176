"""Channel attention experts."""

import torch

from mimdit.conditioner.dispatch import Rows
from mimdit.conditioner.experts import ChannelAttention
from tests.tiny_models import randomize


def test_attention_across_channels_does_not_depend_on_the_scale_of_queries_and_keys():
    expert = ChannelAttention(4, 6, 1)
    randomize(expert, 0, scale=0.7)
    images, chosen = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), Rows.in_order(torch.zeros(2, 1, dtype=torch.long))
    before = expert(images, chosen, torch.ones(2, 1)).detach()
    with torch.no_grad():
        expert.qkv.weight_EOI[:, :12] *= 3  # queries and keys, not values
    torch.testing.assert_close(expert(images, chosen, torch.ones(2, 1)), before, rtol=1e-4, atol=1e-5)


def test_a_black_image_gives_finite_gradients():
    expert = ChannelAttention(4, 6, 1)
    images = torch.zeros(1, 4, 8, 8, requires_grad=True)
    expert(images, Rows.in_order(torch.zeros(1, 1, dtype=torch.long)), torch.ones(1, 1)).sum().backward()
    assert images.grad.isfinite().all() and all(p.grad.isfinite().all() for p in expert.parameters())
