"""Adjustments that some protocols make to an output before scoring it; only the metrics named after one use it."""

from __future__ import annotations

import numpy as np
import torch

_GRAY = (0.299, 0.587, 0.114)


class NotAlignedError(ValueError):
    """No homography was found between an output and its truth."""


def match_mean(image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Scale an image so that its mean gray value equals the truth's, clipped to 0..1: "GT mean" of low-light papers (HVI-CIDNet's code).

    Args:
        image: ``[1, 3, H, W]`` in 0..1.
        truth: Ground truth, of the same shape and range.
    """
    gray = torch.tensor(_GRAY, device=image.device, dtype=torch.float64)[:, None, None]
    means = [(each[0].double() * gray).sum(dim=0).mean() for each in (image, truth)]
    if means[0] == 0:
        return image
    return (image.double() * (means[1] / means[0])).clamp(0, 1).float()


def aligned_scores(image: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Return PSNR in dB and SSIM in RGB after RealBlur's alignment of intensity and geometry (Rim et al., ECCV 2020; Köhler et al., 2012).

    The output is scaled to the truth's intensity by least squares; a homography between the two is found by maximizing their correlation
    (ECC, 100 iterations); only pixels that the warped output covers count.

    Args:
        image: ``[1, 3, H, W]`` in 0..1, at least 11 pixels each way.
        truth: Ground truth, of the same shape and range.

    Raises:
        NotAlignedError: The maximization does not converge.
    """
    import cv2  # imported here: few runs need these two, and they take a second
    from skimage.metrics import structural_similarity

    z, x = (np.ascontiguousarray(each[0].permute(1, 2, 0).cpu().numpy(), np.float32) for each in (image, truth))
    power = float((z * z).sum())
    scaled = np.float32((x * z).sum() / power) * z if power else z
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 0)
    gray = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (x, scaled)]
    start = np.eye(3, dtype=np.float32)
    try:
        _, warp = cv2.findTransformECC(  # pyright: ignore[reportCallIssue]  # its types lack inputMask=None with gaussFiltSize
            *gray, start, cv2.MOTION_HOMOGRAPHY, criteria, inputMask=None, gaussFiltSize=5
        )
    except cv2.error as error:
        raise NotAlignedError(f"no alignment was found ({error.err})") from error
    size = (x.shape[1], x.shape[0])
    warped = cv2.warpPerspective(scaled, warp, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT)
    covered = cv2.warpPerspective(np.ones_like(scaled), warp, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    warped, seen = warped * covered, x * covered
    error = np.square(seen - warped, dtype=np.float64).sum() / covered.sum(dtype=np.float64)
    settings = {"channel_axis": 2, "gaussian_weights": True, "use_sample_covariance": False, "data_range": 1.0, "full": True}
    similarity = (structural_similarity(seen, warped, **settings)[1] * covered)[5:-5, 5:-5].sum(axis=(0, 1))
    return float(10 * np.log10(1 / max(error, 1e-8))), float((similarity / covered[5:-5, 5:-5].sum(axis=(0, 1))).mean())
