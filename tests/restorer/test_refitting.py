"""Refitting of the identification."""

import pytest
import torch

from mimdit import Restorer
from mimdit.conditioner.identification import normalized
from mimdit.conditioner.image_statistics import NUM_STATISTICS, image_statistics
from mimdit.core.batch import ATOMS
from mimdit.evaluation.identification import average_precision
from mimdit.restorer import refitting
from mimdit.restorer.correction import corrected
from mimdit.restorer.identification import identify
from mimdit.restorer.refitting import Examples, FitOptions, collect, fit_head, refitted
from tests.tiny_models import randomize, tiny_restorer

FEW = FitOptions(members=2, width=8, epochs=3)


def restorer(**options) -> Restorer:
    made = tiny_restorer(conditioner={"estimate": True, "identify": True} | options, flow={"start": "estimate", "steps": 0})
    randomize(made.conditioner, 3)
    return made.eval()


def batches(count: int = 12) -> list[dict]:
    """Single images, of which every second is noisy and every third dark."""
    generator, made = torch.Generator().manual_seed(1), []
    for number in range(count):
        present = [float(atom == "noise" and number % 2 == 0 or atom == "lowlight" and number % 3 == 0) for atom in ATOMS]
        image = torch.rand(1, 3, 4, 4, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
        image = image * (0.3 if number % 3 == 0 else 1) + 0.1 * (number % 2 == 0) * torch.randn(1, 3, 32, 32, generator=generator)
        made.append({"lq": image.clamp(0, 1), "degradation": torch.tensor([present]), "key": [str(number)], "group": ["made"]})
    return made


def test_inputs_are_the_features_and_the_statistics_and_cleaned_images_lose_their_noise():
    made, given = restorer(), batches()
    examples = collect(made, given)
    assert len(examples.inputs_IF) == 12 and torch.equal(examples.degradation_IA, torch.cat([batch["degradation"] for batch in given]))
    expected = torch.cat([image_statistics(batch["lq"] * 2 - 1) for batch in given])
    torch.testing.assert_close(examples.inputs_IF[:, -NUM_STATISTICS:], expected)
    logits = made.conditioner.identification.read(examples.inputs_IF[:, :-NUM_STATISTICS])
    found = torch.cat([identify(made, batch["lq"]) for batch in given])
    torch.testing.assert_close(torch.sigmoid(logits), found, rtol=1e-4, atol=1e-5)

    more = collect(made, given, cleaned_share=1.0)
    noisy = [number for number in range(12) if number % 2 == 0]
    assert len(more.inputs_IF) == 12 + len(noisy)
    ones = torch.ones(1)
    cleaned = corrected(given[0]["lq"], made.restore(given[0]["lq"], caution=0.0), fine_B=ones, tone_B=0 * ones)
    torch.testing.assert_close(more.inputs_IF[1, -NUM_STATISTICS:], image_statistics(cleaned * 2 - 1)[0], rtol=1e-4, atol=1e-4)
    assert more.degradation_IA[1].tolist() == [float(atom == "lowlight") for atom in ATOMS]


def test_the_head_is_the_mean_of_its_members(monkeypatch):
    members, fit = [], refitting._fit_member
    monkeypatch.setattr(refitting, "_fit_member", lambda *given: members.append(fit(*given)) or members[-1])
    examples = collect(restorer(), batches())
    head = fit_head(examples, FEW)
    inputs = normalized(examples.inputs_IF, head.center, head.spread)
    expected = torch.stack([member.eval()(inputs) for member in members]).mean(dim=0)
    assert len(members) == 2
    torch.testing.assert_close(head.read(examples.inputs_IF), expected, rtol=1e-4, atol=1e-5)
    again = fit_head(examples, FEW)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in head.state_dict().items())


def test_what_the_inputs_tell_is_learned():
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(3000, NUM_STATISTICS + 4, generator=generator) * 3 + 1
    present = (inputs[:, 5 : 5 + len(ATOMS)] > 1).float()
    fitting, held_out = Examples(inputs, present).split(500)
    before = average_precision(torch.rand(500, len(ATOMS), generator=generator), held_out.degradation_IA).mean
    head = fit_head(fitting, FitOptions(members=1, width=32, epochs=20, dropout=0.2))
    found = average_precision(head.read(held_out.inputs_IF), held_out.degradation_IA).mean
    assert before < 0.6 and found > 0.9


def test_only_the_identification_changes_and_it_is_saved_and_cut_into_pieces(tmp_path):
    made = restorer()
    head = fit_head(collect(made, batches()), FEW)
    other = refitted(made, head)
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    assert torch.equal(other.restore(image), made.restore(image))
    found = identify(other, image)
    assert not torch.allclose(found, identify(made, image))
    other.save_pretrained(tmp_path, dtype=torch.float32)
    again = Restorer.from_pretrained(tmp_path, backbone=made.backbone)
    assert torch.equal(identify(again, image), found)
    torch.testing.assert_close(identify(again, image, tile=32), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"members": 0}, "members=0 must be at least 1"), ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1")],
)
def test_options_are_checked(options, named):
    with pytest.raises(ValueError, match=named):
        FitOptions(**options)


def test_it_needs_an_identification():
    with pytest.raises(ValueError, match="identify: true"):
        collect(restorer(identify=False), batches())
