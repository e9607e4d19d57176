"""Color matching: give an image the colors of another where sampling shifted them."""

from __future__ import annotations

import torch

from mimdit.core.canvas import in_rows

COLORS = ("none", "wavelet", "adain")

_LEVELS = 5
_REACH = 2**_LEVELS - 1
"""Positions that the filters of all levels reach on each side."""


def match_color(images: torch.Tensor, reference: torch.Tensor, how: str) -> torch.Tensor:
    """Give ``images [B, 3, H, W]`` in 0..1 the colors of ``reference``, of the same shape, in place, and return them.

    ``wavelet`` exchanges the residue after five levels of an à-trous wavelet, so details stay (StableSR, arXiv 2305.07015); ``adain`` gives
    each channel the mean and standard deviation of the reference (arXiv 1703.06868); ``none`` changes nothing.

    Raises:
        ValueError: ``how`` is none of `COLORS`.
    """
    check_color(how)
    if how == "adain":
        (var, mean), (var_r, mean_r) = (torch.var_mean(each, dim=(2, 3), keepdim=True, correction=0) for each in (images, reference))
        images.sub_(mean).mul_(((var_r + 1e-10) / (var + 1e-10)).sqrt()).add_(mean_r).clamp_(0, 1)
    elif how == "wavelet":
        height, above = images.shape[2], images[:, :, :0].clone()
        for rows in in_rows(*images.shape[2:]):
            # The filters read the rows above as they were before they were overwritten.
            top, bottom = rows.start - above.shape[2], min(height, rows.stop + _REACH)
            here = torch.cat([above, images[:, :, rows.start : bottom]], dim=2)
            change = _coarsest(reference[:, :, top:bottom] - here)
            above = here[:, :, max(0, rows.stop - top - _REACH) : rows.stop - top]
            images[:, :, rows] = (images[:, :, rows] + change[:, :, rows.start - top : rows.stop - top]).clamp_(0, 1)
    return images


def check_color(how: str) -> None:
    """Check the name of a method.

    Raises:
        ValueError: ``how`` is none of `COLORS`.
    """
    if how not in COLORS:
        raise ValueError(f"color {how!r} is unknown; choose one of {', '.join(COLORS)}")


def _coarsest(images: torch.Tensor) -> torch.Tensor:
    """Return the last level's residue: filtered by (1 2 1) / 4 down and across with holes that double from level to level."""
    kernel = images.new_tensor([0.25, 0.5, 0.25])
    weight = (kernel[:, None] * kernel).expand(images.shape[1], 1, 3, 3)
    for level in range(_LEVELS):
        hole = 2**level
        padded = torch.nn.functional.pad(images, (hole,) * 4, mode="replicate")
        images = torch.nn.functional.conv2d(padded, weight, dilation=hole, groups=images.shape[1])
    return images
