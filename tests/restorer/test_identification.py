"""Probabilities of the degradations of whole images."""

import numpy as np
import pytest
import torch

from mimdit.core.batch import ATOMS
from mimdit.restorer.identification import as_text, identify, identify_pixels, probabilities_of
from tests.tiny_models import randomize, tiny_restorer


def identifying(**conditioner):
    """A restorer whose head has random weights, so that its answer depends on the image."""
    made = tiny_restorer(conditioner={"identify": True} | conditioner, flow={"start": "degraded", "sigma_start": 0.5})
    randomize(made.conditioner, 3)
    return made.eval()


def images(*size: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(1))


def test_they_are_the_sigmoid_of_the_conditioners_logits():
    restorer, given = identifying(), images(2, 3, 32, 64)
    found = identify(restorer, given)
    with torch.no_grad():
        expected = torch.sigmoid(restorer.conditioner(restorer.backbone.encode(given)).identified)
    assert found.shape == (2, len(ATOMS)) and found.std(dim=0).min() > 1e-4
    torch.testing.assert_close(found, expected)


def test_pieces_give_the_answer_of_the_whole_image():
    restorer, given = identifying(), images(1, 3, 96, 136)
    given[..., 64:] *= 0.2  # halves by themselves would be answered differently
    whole = identify(restorer, given)
    torch.testing.assert_close(identify(restorer, given, tile=32), whole, rtol=0, atol=1e-5)
    assert (identify(restorer, given[..., :64]) - whole).abs().max() > 1e-3


def test_the_dit_does_not_run_and_steering_changes_nothing(monkeypatch):
    restorer, given = identifying(), images(1, 3, 32, 32)
    monkeypatch.setattr(restorer, "velocity", None)
    assert torch.equal(identify(restorer, given, steer={"channel": 0.0}, steps=3), identify(restorer, given))


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 3), (np.uint16, 3), (np.uint8, 1)])
def test_pixels_are_named_by_atom(dtype, channels):
    restorer = identifying()
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (24, 40, channels), dtype, endpoint=True)
    found = identify_pixels(restorer, pixels)
    values = torch.from_numpy(pixels.astype(np.float32) / np.iinfo(dtype).max).permute(2, 0, 1).expand(3, -1, -1)[None]
    assert list(found) == list(ATOMS)
    torch.testing.assert_close(torch.tensor(list(found.values())), identify(restorer, values)[0])


def test_what_a_restoration_decided_is_what_is_identified():
    restorer, given, seen = identifying(), images(2, 3, 32, 32), []
    restorer.restore(given, on_decisions=seen.append)
    assert list(probabilities_of(seen[0], 1).values()) == pytest.approx(identify(restorer, given)[1].tolist())
    tiny_restorer(flow={"start": "degraded", "sigma_start": 0.5}).restore(given, on_decisions=seen.append)
    assert probabilities_of(seen[1]) is None


def test_without_a_head_the_remedy_is_told():
    with pytest.raises(ValueError, match=r"identify: false. Leave --checkpoint out .*configs/ablation/identify.yaml"):
        identify(tiny_restorer(), images(1, 3, 32, 32))


def test_text_has_the_most_likely_first():
    assert as_text({"blur": 0.031, "noise": 0.97, "jpeg": 0.5}) == "noise 97 %, jpeg 50 %, blur 3 %"
