"""Losses of estimates, against NumPy; the flow error is tested in tests/backbone/test_prediction.py."""

import math

import numpy as np
import pytest
import torch

from mimdit.training.losses import estimate_loss, harm_loss


def latents():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_estimate_loss_is_charbonnier_plus_rmse_of_each_image():
    estimate, clean = latents().double(), latents().flip(0).double()
    difference = (estimate - clean).numpy()
    charbonnier = np.sqrt(difference**2 + 1e-6).mean()
    rmse = np.mean([np.sqrt((image**2).mean() + 1e-6) for image in difference])
    assert float(estimate_loss(estimate, clean)) == pytest.approx(charbonnier + rmse, rel=1e-5)


def test_estimate_loss_of_psnr_is_the_mean_of_the_images_own_and_levels_off_at_40_db():
    clean = latents()
    near, far = clean + 10 ** (-20 / 20), clean + 10 ** (-10 / 20)  # 20 and 10 dB
    losses = [float(estimate_loss(images, clean, "psnr")) for images in (torch.cat([near[:1], far[1:]]), near, far)]
    assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2)
    assert (losses[2] - losses[1]) / 0.05 == pytest.approx(math.log(0.1004 / 0.0104))
    assert float(estimate_loss(clean, clean, "psnr")) == pytest.approx(0.05 * math.log(4e-4))


def test_harm_is_the_rise_of_the_log_error_of_the_images_that_became_worse():
    clean = torch.zeros(3, 3, 4, 4)
    degraded = clean + torch.tensor([0.1, 0.2, 0.0])[:, None, None, None]
    restored = clean + torch.tensor([0.3, 0.1, 0.02])[:, None, None, None]
    expected = 0.05 * (math.log((0.09 + 4e-4) / (0.01 + 4e-4)) + math.log(8e-4 / 4e-4)) / 3
    assert float(harm_loss(restored, degraded, clean)) == pytest.approx(expected, rel=1e-5)


def test_a_bet_that_wins_two_of_three_times_pays_up_to_a_weight_of_one():
    """A restored image that is right for two of three equally degraded ones, and as wrong for the third as doing nothing is for them."""
    degraded = torch.zeros(3, 3, 4, 4)
    clean = torch.tensor([0.4, 0.4, -0.4])[:, None, None, None].expand_as(degraded)
    step = torch.full_like(degraded, 0.02).requires_grad_()
    for weight, pays in ((0.5, True), (2.0, False)):
        loss = estimate_loss(degraded + step, clean, "psnr") + weight * harm_loss(degraded + step, degraded, clean)
        (slope,) = torch.autograd.grad(loss, step)
        assert bool(slope.sum() < 0) == pays
