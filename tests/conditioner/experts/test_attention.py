"""Attention written out, against torch's fused one."""

import pytest
import torch

from mimdit.conditioner.experts.attention import attend


@pytest.mark.parametrize("biased", [False, True])
def test_attention_is_torchs(biased):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, n, generator=generator, dtype=torch.float64) for n in (7, 4, 4))
    bias = torch.randn(7, 4, generator=generator, dtype=torch.float64) if biased else None
    expected = torch.nn.functional.scaled_dot_product_attention(query.mT, key.mT, value.mT, attn_mask=bias).mT
    torch.testing.assert_close(attend(query, key, value, bias), expected)
