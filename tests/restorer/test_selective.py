"""Removal of some degradations while the others stay."""

import cv2
import numpy as np
import pytest
import torch

from datamodules.degradations import degrade
from datamodules.synthetic.scenes import make_scene
from mimdit import Restorer
from mimdit.core.batch import ATOMS
from mimdit.evaluation.metrics import psnr
from mimdit.restorer import selective
from mimdit.restorer.correction import SIGMA, tone_of
from mimdit.restorer.identification import identify
from mimdit.restorer.selective import share
from tests.tiny_models import randomize, tiny_restorer

SEVERITY = 0.6


@pytest.fixture(scope="module")
def embedded() -> Restorer:
    return Restorer.from_pretrained()


def mixture(tone: str, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A made scene with ``tone`` and noise, and the same with only the noise and only the tone: same amounts, same draws."""
    scene = torch.from_numpy(make_scene(192, seed=seed)).permute(2, 0, 1).contiguous()
    scene = scene.float() / 255 if scene.dtype == torch.uint8 else scene
    both = degrade(scene, f"{tone}_noise", severity=SEVERITY, seed=seed)
    return both[None], *(degrade(scene, atom, severity=SEVERITY / 2**0.5, seed=seed)[None] for atom in ("noise", tone))


def found(restorer: Restorer, images: torch.Tensor, atom: str) -> float:
    return identify(restorer, images)[0, ATOMS.index(atom)].item()


def fine(images: torch.Tensor) -> torch.Tensor:
    return images - tone_of(images)


@pytest.mark.parametrize("tone", ["haze", "lowlight"])
def test_the_tone_goes_and_the_noise_stays(embedded, tone):
    """The control, in full at caution 0.5, may light what is dark and noisy; what sets it apart is the fine part, where the noise was."""
    for seed in (1, 3, 5):
        both, noisy, _ = mixture(tone, seed)
        only, full = embedded.restore(both, only=[tone]), embedded.restore(both, caution=0.5)
        gain, control = ((psnr(result, noisy) - psnr(both, noisy)).item() for result in (only, full))
        assert gain > 5 and gain > control + 1
        assert tone == "lowlight" or control < 0.7  # noise hides the haze from it
        assert psnr(fine(only), fine(noisy)).item() > psnr(fine(both), fine(noisy)).item() - 3
        assert psnr(fine(full), fine(noisy)).item() < psnr(fine(both), fine(noisy)).item() - 5
        assert found(embedded, only, "noise") >= found(embedded, both, "noise") - 0.01
        assert found(embedded, full, "noise") < 0.6  # the control removes it


@pytest.mark.parametrize("tone", ["haze", "lowlight"])
def test_the_noise_goes_and_the_tone_stays(embedded, tone):
    for seed in (1, 3):
        both, _, toned = mixture(tone, seed)
        only = embedded.restore(both, only=["noise"])
        assert psnr(only, toned).item() - psnr(both, toned).item() > 3
        assert abs((only - both).mean()).item() < 0.02  # the brightness stays
        assert found(embedded, only, tone) >= found(embedded, both, tone)


def identifying() -> Restorer:
    """A restorer of random weights that samples with its transformer."""
    restorer = tiny_restorer(conditioner={"identify": True}, flow={"start": "degraded", "sigma_start": 0.5})
    randomize(restorer.conditioner, 3)
    return restorer.eval()


def images(*size: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("only", [["haze"], ["noise", "haze"]])
def test_pieces_change_nothing(monkeypatch, only):
    restorer, given = identifying(), images(1, 3, 72, 136)
    whole = restorer.restore(given, only=only)
    monkeypatch.setattr("mimdit.core.canvas._AT_ONCE", 1000)  # a few rows at a time
    torch.testing.assert_close(restorer.restore(given, only=only, tile=32), whole, rtol=0, atol=2e-5)


def test_a_batch_is_restored_image_by_image():
    restorer, given = identifying(), images(2, 3, 64, 64)
    given[1] *= 0.3
    together = restorer.restore(given, only=["haze", "rain"])
    for index in range(2):
        one = restorer.restore(given[index : index + 1], only=["haze", "rain"])
        torch.testing.assert_close(together[index : index + 1], one, rtol=0, atol=1e-5)


def test_parts_are_those_of_the_correction(monkeypatch):
    """With every degradation certain and asked for, the fine part is the correction above the low-pass, written out densely."""
    restorer, given = identifying(), images(1, 3, 48, 40)
    monkeypatch.setattr(selective, "share", lambda probabilities, only, part: torch.ones(len(probabilities)))
    change = (restorer.restore(given) - given)[0].permute(1, 2, 0).numpy()
    coarse = cv2.GaussianBlur(change, (25, 25), SIGMA, borderType=cv2.BORDER_REPLICATE)
    expected = (given[0].permute(1, 2, 0).numpy() + change - coarse).clip(0, 1)
    np.testing.assert_allclose(restorer.restore(given, only=["noise"])[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)
    cleaned = torch.from_numpy(expected).permute(2, 0, 1)[None]
    toned, seen = given, cleaned
    for _ in range(selective.PASSES):
        change = restorer.restore(seen) - seen  # the image is too small to be reduced
        toned, seen = (toned + change).clamp(0, 1), (seen + change).clamp(0, 1)
    monkeypatch.setattr(
        selective, "share", lambda probabilities, only, part: torch.full((len(probabilities),), float(part == selective.REMOVABLE_TONE))
    )
    torch.testing.assert_close(restorer.restore(given, only=["haze"]), toned, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("probabilities", "only", "expected"),
    [
        ({"noise": 0.9}, ["noise"], 1.0),
        ({"noise": 0.2}, ["noise"], 0.4),
        ({"noise": 0.9, "jpeg": 0.9}, ["noise"], 0.5),
        ({"noise": 0.9, "jpeg": 0.9}, ["noise", "jpeg"], 1.0),
        ({"noise": 1.0, "jpeg": 0.4}, ["noise"], 1.0),  # what is unlikely takes no share
        ({"noise": 1.0, "haze": 1.0}, ["noise"], 1.0),  # another part
        ({"noise": 0.6, "jpeg": 0.4}, ["jpeg"], 0.8 / 1.8),
        ({"noise": 1.0}, ["jpeg"], 0.0),
    ],
)
def test_degradations_of_a_part_share_it(probabilities, only, expected):
    given = torch.tensor([[probabilities.get(atom, 0.0) for atom in ATOMS]])
    fine = [atom for atom in ATOMS if atom not in selective.REMOVABLE_TONE]
    assert share(given, only, fine).tolist() == pytest.approx([expected])


def test_progress_sums_to_one_and_decisions_are_told():
    restorer, given, done, seen = identifying(), images(1, 3, 64, 64), [], []
    restorer.restore(given, only=["haze"], progress=done.append, on_decisions=seen.append)
    assert sum(done) == pytest.approx(1) and len(seen) == 1
    restorer.restore(given, on_decisions=seen.append)
    assert torch.equal(seen[0].identified, seen[1].identified)


@pytest.mark.parametrize(
    ("only", "named"),
    [(["hase"], "'hase'.*choose from blur, noise, jpeg, haze"), ([], "only is empty"), ("haze", r"give a list.*\[haze\]")],
)
def test_names_are_checked(only, named):
    with pytest.raises(ValueError, match=named):
        identifying().restore(images(1, 3, 32, 32), only=only)


def test_it_needs_identification_and_decides_for_itself():
    plain = tiny_restorer(flow={"start": "degraded", "sigma_start": 0.5})
    with pytest.raises(ValueError, match=r"only haze: these weights do not identify.*identify: true"):
        plain.sampling_settings(only=["haze"])
    restorer, given, seen = identifying(), images(1, 3, 32, 32), []
    restorer.restore(given, on_decisions=seen.append)
    with pytest.raises(ValueError, match=r"only=\['haze'\].*leave routing and decisions out"):
        restorer.restore(given, only=["haze"], decisions=seen[0])
