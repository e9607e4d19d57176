"""The estimate head."""

import numpy as np
import torch

from mimdit.conditioner.estimate import QUANTILES, EstimateHead, ToneCurve, ToneGrid, tone_statistics
from mimdit.routing.router import router_features
from tests.tiny_models import randomize

POWERS = (0, 0.4, 1, 2)


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1, torch.randn(2, 8, 8, 8, generator=generator)


def test_a_fresh_head_answers_the_degraded_latent_to_the_bit():
    latents, hidden = inputs()
    assert torch.equal(EstimateHead(3, 8, 2, tone_powers=POWERS)(latents, hidden), latents)


def test_tone_is_a_sum_of_powers_with_coefficients_per_channel():
    tone, (latents, hidden) = ToneCurve(3, 8, POWERS), inputs()
    last = tone.coefficients[-1]
    with torch.no_grad():
        last.bias.copy_(torch.arange(12.0) / 10)  # power-major: c[j, channel] = (3 j + channel) / 10
    y = (latents + 1) / 2
    expected = torch.stack([sum((3 * j + c) / 10 * y[:, c].clamp_min(1e-3) ** p for j, p in enumerate(POWERS)) for c in range(3)], dim=1)
    torch.testing.assert_close(tone(latents, hidden), expected, rtol=1e-5, atol=1e-5)


def test_tone_is_global_so_the_same_value_moves_alike_everywhere():
    tone, (latents, hidden) = ToneCurve(3, 8, POWERS), inputs()
    randomize(tone, 0)
    latents[:, :, 0, 0] = latents[:, :, 7, 9]
    change = tone(latents, hidden)
    assert torch.equal(change[:, :, 0, 0], change[:, :, 7, 9])


def test_tone_reads_the_features_of_as_many_blocks_as_it_was_built_for():
    (latents, hidden), earlier = inputs(), [torch.randn(2, 16, generator=torch.Generator().manual_seed(block)) for block in range(3)]
    tone = ToneCurve(3, 8, POWERS, num_blocks=1, widths=(5, 7))
    randomize(tone, 0)
    assert [layer.out_features for layer in tone.coefficients[::2]] == [5, 7, 12]
    features = [*earlier, router_features(hidden)]
    read = torch.cat([features[2], features[3], router_features(latents)], dim=1)
    expected = tone.change(latents, tone.coefficients(read)[..., None, None])
    decided = tone.decide(latents, features)
    torch.testing.assert_close(tone(latents, hidden, decided), expected)
    assert torch.equal(tone.decide(latents, features[1:]), decided)
    assert not torch.equal(tone.decide(latents, [*earlier[:2], earlier[0], features[3]]), decided)


def test_a_constant_grid_equals_the_global_tone():
    (latents, hidden), wanted = inputs(), torch.arange(12.0) / 10
    tone, local = ToneCurve(3, 8, POWERS), ToneCurve(3, 8, POWERS, grid=4)
    with torch.no_grad():
        tone.coefficients[-1].bias.copy_(wanted)
        local.grid.network[-1].bias.copy_(wanted)
    torch.testing.assert_close(local(latents, hidden), tone(latents, hidden), rtol=1e-5, atol=1e-5)


def test_a_grid_reads_mean_and_spread_of_its_cells_and_interpolates_between_their_centers():
    grid = ToneGrid(1, 2, 2)
    with torch.no_grad():
        for layer in grid.network:
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.zero_()
                layer.bias.zero_()
        grid.network[1] = torch.nn.Identity()
        grid.network[0].weight[:, :, 0, 0] = torch.eye(2)
        grid.network[2].weight[:, 0, 1, 1] = 1  # the cell itself
        grid.network[3].weight[:, :, 0, 0] = torch.eye(2)
    hidden = torch.tensor([[1.0, 3.0, 7.0, 7.0]] * 2)[None, None]  # two cells: mean 2, std 1, and mean 7, std 0
    answer = grid(hidden, (2, 8))[0, :, 0]
    # of eight columns the first cell's center lies between 1 and 2, the second's between 5 and 6
    share = torch.tensor([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1])
    for row, (first, second) in zip(answer, ((2.0, 7.0), (np.log(1 + 1e-4) / 2, np.log(1e-4) / 2))):
        torch.testing.assert_close(row, first + (second - first) * share)


def test_a_change_of_the_grid_in_one_corner_does_not_reach_the_other():
    tone, (latents, hidden) = ToneCurve(3, 8, POWERS, grid=1), inputs()
    randomize(tone.grid, 0)
    other = hidden.clone()
    other[:, :, :2, :2] += 1
    before, after = (tone.grid(states, latents.shape[2:]) for states in (hidden, other))
    assert not torch.equal(before[..., :4, :4], after[..., :4, :4])
    assert torch.equal(before[..., 8:, 8:], after[..., 8:, 8:])


def test_gradients_stay_finite_in_black_regions_and_on_constant_images():
    head, (latents, hidden) = EstimateHead(3, 8, 2, tone_powers=POWERS, tone_grid=4), inputs()
    randomize(head, 0)
    latents = torch.full_like(latents, -1.0).requires_grad_()
    hidden = torch.zeros_like(hidden).requires_grad_()
    head(latents, hidden).square().sum().backward()
    assert latents.grad.isfinite().all() and hidden.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_detail_lands_where_its_position_is():
    head, (latents, hidden) = EstimateHead(3, 8, 2), inputs()
    randomize(head, 0)
    changed = hidden.clone()
    changed[:, :, 5, 2] += 1
    moved = (head(latents, changed) - head(latents, hidden)).abs().sum(dim=(0, 1)) > 0
    rows, columns = moved.nonzero().T
    assert moved.any()
    # two 3x3 filters in a row reach two positions, each 2 pixels wide
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 15, 0, 9)


def test_with_a_convolutional_feed_forward_it_reaches_as_far_as_pieces_overlap():
    head = EstimateHead(3, 8, 2, feed_forward="conv")
    randomize(head, 0)
    latents, hidden = torch.zeros(1, 3, 32, 32), torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    changed = hidden.clone()
    changed[:, :, 8, 5] += 1
    rows, columns = ((head(latents, changed) - head(latents, hidden)).abs().sum(dim=(0, 1)) > 0).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 23, 4, 17)  # three positions: the halo of `condition_in_pieces`


def test_tone_statistics_are_numpys_quantiles_and_gradient_spread():
    latents = torch.rand(2, 3, 12, 20) * 2 - 1
    statistics = tone_statistics(latents).numpy()
    pixels = latents.numpy()
    for image, row in zip(pixels, statistics):
        values = [*image.reshape(3, -1), image.min(axis=0).reshape(-1)]
        quantiles = np.concatenate([np.quantile(v, QUANTILES) for v in values])
        spread = np.log(np.diff(image, axis=2).reshape(3, -1).std(axis=1) + 1e-4)
        np.testing.assert_allclose(row, np.concatenate([quantiles, spread]), rtol=1e-4, atol=1e-5)


def test_tone_statistics_of_a_large_image_are_those_of_evenly_spaced_positions():
    ramp = torch.linspace(-1, 1, 400 * 400).view(1, 1, 400, 400).expand(1, 3, -1, -1)
    medians = tone_statistics(ramp)[0, : 4 * len(QUANTILES)].view(4, -1)[:, QUANTILES.index(0.5)]
    torch.testing.assert_close(medians, torch.zeros(4), atol=1e-3, rtol=0)
