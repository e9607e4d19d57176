"""Losses of estimates, against NumPy; the flow error is tested in tests/backbone/test_prediction.py."""

import math

import numpy as np
import pytest
import torch

from mimdit.training.losses import estimate_loss


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
