"""Corrections no larger than the identification is sure of."""

import cv2
import numpy as np
import pytest
import torch

from mimdit.conditioner.identification import TONE_ATOMS
from mimdit.core.batch import ATOMS
from mimdit.restorer.caution import check_caution, gated, parse_caution, shares
from mimdit.restorer.correction import SIGMA, corrected
from mimdit.restorer.pixels import restore_pixels
from mimdit.restorer.restorer import Restorer
from tests.tiny_models import randomize, tiny_restorer


def logit(probability: float) -> float:
    return torch.tensor(probability, dtype=torch.float64).logit().item()


def sure_of(probability: float, atom: str = "haze", **options) -> Restorer:
    """A restorer that gives one degradation of every image this probability, and the others next to none."""
    restorer = tiny_restorer(conditioner={"identify": True}, flow={"start": "degraded", "sigma_start": 0.5}, **options)
    randomize(restorer.conditioner, 3)
    last = restorer.conditioner.identification.network[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, -12.0)
    last.bias.data[ATOMS.index(atom)] = logit(probability)
    return restorer.eval()


def images(*size: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("caution", [0.2, 0.5, 1.0])
def test_the_share_grows_linearly_from_four_fifths_of_the_probability_to_all_of_it(caution):
    expected = {0.0: 0.0, 0.8: 0.0, 0.85: 0.25, 0.9: 0.5, 0.99: 0.95}
    for index, atom in enumerate(ATOMS):
        identified_BA = torch.full((len(expected), len(ATOMS)), -20.0)
        identified_BA[:, index] = torch.tensor([logit(max(share * caution, 1e-9)) for share in expected])
        fine_B, tone_B = shares(identified_BA, caution)
        torch.testing.assert_close(fine_B, torch.tensor([*expected.values()]), rtol=0, atol=1e-5)
        assert torch.equal(tone_B, fine_B if atom in TONE_ATOMS else torch.zeros_like(fine_B))


def test_fine_part_and_tone_have_each_the_likeliest_of_their_degradations():
    identified_BA = torch.full((1, len(ATOMS)), -20.0)
    for atom, probability in {"noise": 0.46, "jpeg": 0.2, "haze": 0.44, "rain": 0.3}.items():
        identified_BA[0, ATOMS.index(atom)] = logit(probability)
    fine_B, tone_B = shares(identified_BA, 0.5)
    torch.testing.assert_close(torch.cat([fine_B, tone_B]), torch.tensor([0.6, 0.4]))


def test_each_degradation_may_have_its_own_caution_and_others_bring_no_share():
    identified_BA = torch.full((4, len(ATOMS)), -20.0)
    for row, (atom, probability) in enumerate([("noise", 0.36), ("rain", 0.72), ("jpeg", 0.99), ("haze", 0.99)]):
        identified_BA[row, ATOMS.index(atom)] = logit(probability)
    fine_B, tone_B = shares(identified_BA, {"noise": 0.4, "rain": 0.8})
    torch.testing.assert_close(fine_B, torch.tensor([0.5, 0.5, 0.0, 0.0]))
    torch.testing.assert_close(tone_B, torch.tensor([0.0, 0.5, 0.0, 0.0]))


@pytest.mark.parametrize(("probability", "share"), [(0.2, 0.0), (0.45, 0.5), (0.7, 1.0)])
@pytest.mark.parametrize("tile", [None, 32])
def test_an_image_gets_the_share_of_its_likeliest_degradation(probability, share, tile):
    restorer, given = sure_of(probability), images(1, 3, 48, 80)
    full = restorer.restore(given, tile=tile)
    result = restorer.restore(given, tile=tile, caution=0.5)
    assert (full - given).abs().max() > 0.05
    torch.testing.assert_close(result, given + share * (full - given))


@pytest.mark.parametrize("tile", [None, 32])
def test_certain_noise_leaves_the_tone_as_it_is(tile):
    restorer, given = sure_of(0.9, "noise"), images(1, 3, 48, 80)
    change = (restorer.restore(given, tile=tile) - given)[0].permute(1, 2, 0).numpy()
    tone = cv2.GaussianBlur(change, (25, 25), SIGMA, borderType=cv2.BORDER_REPLICATE)
    expected = (given[0].permute(1, 2, 0).numpy() + change - tone).clip(0, 1)
    result = restorer.restore(given, tile=tile, caution=0.5)[0].permute(1, 2, 0).numpy()
    assert np.abs(tone).max() > 0.02
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("caution", [0.5, {"noise": 0.4, "haze": 0.5}])
def test_a_restorer_carries_its_caution_into_folders_and_to_other_conditioners(tmp_path, caution):
    restorer, given = sure_of(0.45, caution=caution), images(1, 3, 32, 32)
    restored = restorer.restore(given)
    assert not torch.equal(restored, restorer.restore(given, caution=0.0))
    restorer.ema.restart()
    restorer.save_pretrained(tmp_path)
    again = Restorer.from_pretrained(tmp_path, backbone=restorer.backbone)
    assert again.caution == caution and torch.equal(again.restore(given), restored)
    assert torch.equal(restorer.with_conditioner(restorer.conditioner).restore(given), restored)


def test_without_a_likely_degradation_an_averaged_frame_comes_back_as_it_was_before():
    rng = np.random.default_rng(0)
    frame, averaged = (rng.integers(0, 256, (32, 40, 3), dtype=np.uint8) for _ in range(2))
    restorer = sure_of(0.2, caution=0.5)
    assert np.array_equal(restore_pixels(restorer, averaged, original=frame), frame)
    assert np.array_equal(restore_pixels(restorer, averaged), averaged)


def test_with_only_the_probabilities_scale_the_correction_once():
    given = images(1, 3, 32, 32)
    cautious, bold = sure_of(0.3, caution=0.9), sure_of(0.3)
    assert torch.equal(cautious.restore(given, only=["haze"]), bold.restore(given, only=["haze"]))


def test_probabilities_that_are_not_there_and_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"caution=0.5 needs the probabilities .* identify: false; use caution: 0"):
        tiny_restorer(caution=0.5)
    with pytest.raises(ValueError, match=r"caution=0.5 needs the probabilities"):
        tiny_restorer().sampling_settings(caution=0.5)
    with pytest.raises(ValueError, match=r"caution=1.5 is outside 0..1; 0 corrects every image in full"):
        sure_of(0.5).sampling_settings(caution=1.5)


@pytest.mark.parametrize(
    ("caution", "words"),
    [
        ({}, "names no degradation, so nothing would be corrected; use caution: 0"),
        ({"fog": 0.5}, "'fog': there is no such degradation; choose from blur, noise"),
        ({"rain": 0.0}, "rain=0 must be above 0 and at most 1; a degradation that is not named does not count"),
        ({"rain": 1.01}, "rain=1.01 must be above 0 and at most 1"),
    ],
)
def test_mappings_with_other_names_or_values_are_refused(caution, words):
    with pytest.raises(ValueError, match=words):
        check_caution(caution)


def test_caution_is_parsed():
    assert parse_caution("0.5") == 0.5 and parse_caution("noise=0.5, rain=0.7") == {"noise": 0.5, "rain": 0.7}
    with pytest.raises(ValueError, match=r"caution 'much' cannot be read; write a number, or name=value such as noise=0.5,rain=0.7"):
        parse_caution("much")


def test_labels_correct_what_a_certain_identification_would():
    degraded, restored = 0.3 + 0.2 * images(4, 3, 20, 30), 0.3 + 0.2 * images(4, 3, 20, 30).flip(0)
    degradation_BA = torch.zeros(4, len(ATOMS))
    for index, atoms in enumerate([[], ["noise"], ["haze"], ["noise", "lowlight"]]):
        degradation_BA[index, [ATOMS.index(atom) for atom in atoms]] = 1.0
    fine_B, tone_B = shares(80 * (degradation_BA - 0.5), 0.5)
    expected = corrected(degraded, restored, fine_B=fine_B, tone_B=tone_B)
    found = gated(degraded, restored, degradation_BA, None, by="labels", caution=0.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.equal(found[0], degraded[0]) and not torch.allclose(found[1], restored[1], atol=1e-3)


def test_what_passes_in_training_is_what_passes_at_inference():
    """With gradients only to the restored images: the identification has its own loss."""
    degraded, restored = 0.3 + 0.2 * images(3, 3, 20, 30), (0.3 + 0.2 * images(3, 3, 20, 30).flip(0)).requires_grad_()
    identified_BA = torch.full((3, len(ATOMS)), -20.0)
    for index, (atom, probability) in enumerate({"noise": 0.46, "haze": 0.44, "rain": 0.1}.items()):
        identified_BA[index, ATOMS.index(atom)] = logit(probability)
    identified_BA.requires_grad_()
    fine_B, tone_B = shares(identified_BA.detach(), 0.5)
    found = gated(degraded, restored, torch.ones(3, len(ATOMS)), identified_BA, by="identified", caution=0.5)
    torch.testing.assert_close(found, corrected(degraded, restored.detach(), fine_B=fine_B, tone_B=tone_B), rtol=0, atol=1e-6)
    found.sum().backward()
    assert restored.grad[0].any() and not restored.grad[2].any() and identified_BA.grad is None
