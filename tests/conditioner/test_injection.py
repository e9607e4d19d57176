"""From conditioner features to the residuals that diffusers adds."""

import pytest
import torch

from mimdit.conditioner.injection import ResidualProjection, TimestepScale
from tests.tiny_models import ARCHITECTURE, randomize, tiny_backbone


def test_a_fresh_projection_is_silent_yet_learns_at_once():
    projection, hidden = ResidualProjection(4, 6, 2), torch.randn(1, 4, 4, 6)
    output = projection(hidden)
    assert torch.count_nonzero(output) == 0
    output.sum().backward()
    assert projection.linear.weight.grad.abs().sum() > 0


def test_token_n_reads_exactly_the_positions_under_it_row_by_row():
    projection = ResidualProjection(4, 6, 2)
    randomize(projection, 0, scale=1.0)
    hidden = torch.randn(1, 4, 4, 6, requires_grad=True)
    tokens = projection(hidden)
    assert tokens.shape == (1, 6, 6)
    for token in range(6):
        row, column = divmod(token, 3)
        reached = torch.autograd.grad(tokens[0, token].sum(), hidden, retain_graph=True)[0][0].abs().sum(0) > 0
        expected = torch.zeros(4, 6, dtype=torch.bool)
        expected[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = True
        assert torch.equal(reached, expected)


def test_token_order_is_the_transformers():
    """A change in one patch of the latent moves the token at the row-by-row index of that patch."""
    embed = tiny_backbone().transformer.pos_embed
    latents = torch.zeros(1, 3, 16, 24)
    changed = latents.clone()
    changed[:, :, 8:12, 4:8] = 1  # row 2, column 1 of 6 columns
    assert (embed(changed) != embed(latents)).any(-1)[0].nonzero().flatten().tolist() == [2 * 6 + 1]


@pytest.mark.parametrize(
    ("blocks", "layers", "mapping"), [(1, 2, [0]), (2, 6, [0, 0, 0, 1, 1]), (3, 4, [0, 1, 2]), (4, 7, [0, 0, 1, 2, 2, 3])]
)
def test_a_fresh_scale_stretches_the_residuals_over_the_blocks_that_take_one(blocks, layers, mapping):
    residuals = [torch.randn(2, 5, 8) for _ in range(blocks)]
    stretched = TimestepScale(8, layers)(residuals, torch.tensor([0.1, 0.9]))
    assert len(stretched) == layers
    for got, source in zip(stretched, mapping, strict=False):
        assert torch.equal(got, residuals[source])


def test_scale_differs_by_sigma_and_by_layer():
    scale = TimestepScale(8, 4)
    randomize(scale, 0, scale=0.3)
    first, second = scale([torch.ones(2, 5, 8)], torch.tensor([0.1, 0.9]))[:2]
    assert not torch.allclose(first[0], first[1]) and not torch.allclose(first, second)
    torch.testing.assert_close(first[:, 0], first[:, 4])  # one factor per channel, whatever the token


def test_diffusers_adds_residual_l_after_block_l_and_none_after_the_last():
    backbone = tiny_backbone(architecture=ARCHITECTURE | {"num_layers": 3})
    latents, sigma = torch.randn(1, 3, 16, 16), torch.tensor([0.5])
    residuals = [torch.randn(1, 16, 16) for _ in range(3)]
    handles = [
        block.register_forward_hook(lambda module, args, output, own=residuals[layer]: (output[0], output[1] + own))
        for layer, block in enumerate(backbone.transformer.transformer_blocks[:-1])
    ]
    expected = backbone.velocity(latents, sigma)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(backbone.velocity(latents, sigma, residuals), expected)
    assert not torch.allclose(expected, backbone.velocity(latents, sigma), rtol=1e-3)
