"""Losses on the networks' predictions: velocity, estimate, identification. The routing losses are in `mimdit.routing.balance`."""

from __future__ import annotations

import torch
from torch import nn


def flow_error(velocity: torch.Tensor, target: torch.Tensor, sigma: torch.Tensor, *, on: str, sigma_min: float = 0.0) -> torch.Tensor:
    """Return the mean squared error ``[B]`` of each image's velocity, or of the clean latent that it implies.

    Args:
        velocity: Predicted velocity ``[B, C, h, w]``.
        target: Velocity of the path ``[B, C, h, w]``.
        sigma: Noise levels ``[B]`` in 0..1.
        on: ``velocity`` or ``sample``.
        sigma_min: If the velocity was converted from a predicted sample, the smallest divisor of that conversion; the target is converted
            in the same way, so that the true sample has no error at any sigma. 0 for a directly predicted velocity.
    """
    divisor = sigma.float().clamp_min(sigma_min)
    if sigma_min > 0:
        target = target * (sigma.float() / divisor)[:, None, None, None]
    error = (velocity.float() - target).square().mean(dim=(1, 2, 3))
    return error if on == "velocity" else error * divisor.square()


def check_flow_loss(on: str, sigma_min: float) -> None:
    """Check the arguments of `flow_error`.

    Raises:
        ValueError: ``on`` is unknown, or ``sigma_min`` is outside (0, 1).
    """
    if on not in ("velocity", "sample"):
        raise ValueError(f"flow_loss_on {on!r} is unknown; choose velocity or sample")
    if not 0 < sigma_min < 1:
        raise ValueError(f"sigma_min={sigma_min} is outside (0, 1); 0.05 is usual")


def estimate_loss(estimate: torch.Tensor, clean: torch.Tensor, norm: str = "rmse") -> torch.Tensor:
    """Return the error of estimates ``[B, C, h, w]`` as one number. Not in the paper.

    ``rmse``: Charbonnier error, for detail, plus RMSE per image, for PSNR, which is a mean of logs. ``psnr``: that mean of logs itself,
    `log_error`.
    """
    error = (estimate - clean.float()).square()
    mse = error.mean(dim=(1, 2, 3))
    if norm == "psnr":
        return log_error(mse)
    return (error + 1e-6).sqrt().mean() + (mse + 1e-6).sqrt().mean()


def log_error(mse: torch.Tensor) -> torch.Tensor:
    """Return the mean of 0.05 ln(MSE + 4e-4) over the images of ``mse [B]``. Not in the paper.

    The floor is the MSE of 40 dB for pixels in -1..1, beyond which differences are hardly visible.
    """
    return _logs(mse).mean()


def harm_loss(restored: torch.Tensor, degraded: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Return by how much images ``restored [B, C, h, w]`` are further from ``clean`` than ``degraded`` is. Not in the paper.

    The mean over the images of the rise of `log_error`, 0 for one that did not become worse. `log_error` alone gains by a bet: a change of
    tone that is right more often than wrong pays. With this loss beside it, at weight w, a bet whose gain and loss are alike pays only
    if it is right (1 + w) times as often as it is wrong.
    """
    before, after = (_logs((image.float() - clean.float()).square().mean(dim=(1, 2, 3))) for image in (degraded, restored))
    return (after - before).relu().mean()


def _logs(mse: torch.Tensor) -> torch.Tensor:
    return 0.05 * (mse + 4e-4).log()


def identify_loss(identified: torch.Tensor, degradation: torch.Tensor) -> torch.Tensor:
    """Return the mean binary cross-entropy of logits ``identified [B, A]`` against multi-hot ``degradation [B, A]``. Not in the paper."""
    return nn.functional.binary_cross_entropy_with_logits(identified, degradation.to(identified.dtype))
