"""Training on images without the fine part of their own correction."""

import cv2
import numpy as np
import pytest
import torch

from mimdit.core.batch import ATOMS
from mimdit.restorer.cleaned import clean_in_some_steps
from mimdit.restorer.correction import SIGMA
from tests.tiny_models import randomize, tiny_restorer


def restorer(share: float):
    made = tiny_restorer(conditioner={"estimate": True, "identify": True}, estimate_weight=1.0, cleaned_share=share)
    randomize(made.conditioner, 3)
    return made


def labels(*names: str) -> torch.Tensor:
    return torch.tensor([[float(atom in names) for atom in ATOMS]])


def test_noise_and_its_label_go_and_the_rest_stays():
    """Against a dense Gaussian of OpenCV: the cleaned image is the degraded one plus the estimate's change above the low-pass."""
    made = restorer(1.0)
    degraded = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    given = torch.cat([labels("noise", "haze"), labels("haze"), labels("blur", "jpeg")])
    cleaned, remaining = clean_in_some_steps(made, degraded, given)
    assert torch.equal(remaining, torch.cat([labels("haze"), labels("haze"), labels("blur")]))
    assert torch.equal(cleaned[1], degraded[1])
    with torch.no_grad():
        change = (made.conditioner(degraded).estimate - degraded).permute(0, 2, 3, 1).numpy()
    for index in (0, 2):
        coarse = cv2.GaussianBlur(change[index], (25, 25), SIGMA, borderType=cv2.BORDER_REPLICATE)
        expected = (degraded[index].permute(1, 2, 0).numpy() + change[index] - coarse).clip(-1, 1)
        np.testing.assert_allclose(cleaned[index].permute(1, 2, 0).numpy(), expected, atol=1e-5)
        assert np.abs(change[index] - coarse).max() > 0.01


def test_the_step_decides(monkeypatch):
    made = restorer(0.3)
    degraded, given, steps = torch.rand(1, 3, 16, 16) * 2 - 1, labels("noise"), []
    for step in range(200):
        monkeypatch.setattr(type(made), "global_step", step)
        cleaned, remaining = clean_in_some_steps(made, degraded, given)
        assert torch.equal(cleaned, degraded) == torch.equal(remaining, given)
        steps.append(not torch.equal(remaining, given))
    assert 40 < sum(steps) < 80  # 60 expected, standard deviation 6.5


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"cleaned_share": 1.5}, "cleaned_share=1.5 is outside 0..1"),
        ({"cleaned_share": 0.5}, "set estimate_weight too, or use cleaned_share: 0"),
    ],
)
def test_options_are_checked(options, named):
    with pytest.raises(ValueError, match=named):
        tiny_restorer(**options)
