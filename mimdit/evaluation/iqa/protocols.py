"""What some protocols do to an output before they score it: off unless a metric's name says so."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from skimage.metrics import structural_similarity

_GREY = (0.299, 0.587, 0.114)


class NotAlignedError(ValueError):
    """No homography was found between an output and its truth."""


def match_mean(image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Scale an image so that its mean grey value is the truth's, clipped to 0..1: "GT mean" of low-light papers (HVI-CIDNet's code).

    Args:
        image: ``[1, 3, H, W]`` in 0..1.
        truth: The same.
    """
    grey = torch.tensor(_GREY, device=image.device, dtype=torch.float64)[:, None, None]
    means = [(each[0].double() * grey).sum(dim=0).mean() for each in (image, truth)]
    if means[0] == 0:
        return image
    return (image.double() * (means[1] / means[0])).clamp(0, 1).float()


def aligned_scores(image: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """PSNR in dB and SSIM in RGB after RealBlur's alignment (Rim et al., ECCV 2020, after Köhler et al.): intensity, then a homography.

    The output is scaled to the truth's intensity by least squares, a homography between the two is found by maximising their correlation
    (ECC, 100 iterations), and only pixels that the moved output covers count.

    Args:
        image: ``[1, 3, H, W]`` in 0..1, at least 11 pixels each way.
        truth: The same.

    Raises:
        NotAlignedError: The correlation cannot be maximised.
    """
    z, x = (np.ascontiguousarray(each[0].permute(1, 2, 0).cpu().numpy(), np.float32) for each in (image, truth))
    power = float((z * z).sum())
    scaled = np.float32((x * z).sum() / power) * z if power else z
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 0)
    grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (x, scaled)]
    try:
        _, warp = cv2.findTransformECC(*grey, np.eye(3, dtype=np.float32), cv2.MOTION_HOMOGRAPHY, criteria, inputMask=None, gaussFiltSize=5)
    except cv2.error as error:
        raise NotAlignedError(f"no alignment was found ({error.err})") from error
    size = (x.shape[1], x.shape[0])
    moved = cv2.warpPerspective(scaled, warp, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT)
    covered = cv2.warpPerspective(np.ones_like(scaled), warp, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    moved, seen = moved * covered, x * covered
    error = np.square(seen - moved, dtype=np.float64).sum() / covered.sum(dtype=np.float64)
    settings = {"channel_axis": 2, "gaussian_weights": True, "use_sample_covariance": False, "data_range": 1.0, "full": True}
    similarity = (structural_similarity(seen, moved, **settings)[1] * covered)[5:-5, 5:-5].sum(axis=(0, 1))
    return float(10 * np.log10(1 / max(error, 1e-8))), float((similarity / covered[5:-5, 5:-5].sum(axis=(0, 1))).mean())
