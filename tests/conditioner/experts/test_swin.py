"""Swin experts against torchvision's shifted-window attention."""

import pytest
import torch
from torchvision.models.swin_transformer import shifted_window_attention

from mimdit.conditioner.dispatch import Rows
from mimdit.conditioner.experts import SwinAttention
from tests.tiny_models import randomize


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (24, 16)])
def test_one_sub_expert_is_torchvisions_shifted_window_attention(size, shift):
    dim = 6
    swin = SwinAttention(dim, dim, 2, shift=shift).double()
    randomize(swin, 0, scale=0.7)
    images = torch.randn(2, dim, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    output = swin(images, Rows.in_order(torch.ones(2, 1, dtype=torch.long)), torch.ones(2, 1, dtype=torch.float64))

    # torchvision stores the offset of query minus key in the same order, a row of 15 x 15 offsets per head
    bias = swin.position_bias_EP[1][swin_positions()][None, None]
    expected = shifted_window_attention(
        images.permute(0, 2, 3, 1), swin.qkv.weight_EOI[1], swin.out.weight_EOI[1], bias, [8, 8], 1, [4, 4] if shift else [0, 0]
    )
    torch.testing.assert_close(output, expected.permute(0, 3, 1, 2), rtol=1e-10, atol=1e-10)


def swin_positions():
    """Offsets of all pairs as torchvision's own module counts them, ``[64, 64]``."""
    from torchvision.models.swin_transformer import ShiftedWindowAttention

    return ShiftedWindowAttention(6, [8, 8], [0, 0], 1).relative_position_index.view(64, 64)


def test_a_shifted_window_does_not_look_across_the_border_of_the_image():
    swin = SwinAttention(4, 4, 1, shift=True)
    randomize(swin, 0, scale=0.7)
    images = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    changed = images.clone()
    changed[:, :, :, -4:] += 1  # rolled into the window of the first columns
    first, second = (swin(i, Rows.in_order(torch.zeros(1, 1, dtype=torch.long)), torch.ones(1, 1)) for i in (images, changed))
    assert torch.equal(first[..., :4], second[..., :4])
    assert not torch.allclose(first[..., -4:], second[..., -4:])


def test_a_size_that_windows_do_not_divide_is_an_error():
    with pytest.raises(ValueError, match=r"12x16 .* windows of 8; pad"):
        SwinAttention(4, 4, 1)(torch.zeros(1, 4, 12, 16), Rows.in_order(torch.zeros(1, 1, dtype=torch.long)), torch.ones(1, 1))
