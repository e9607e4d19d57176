"""SamplingSettings: made once, complete, checked, and passed on whole."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from mimdit.restorer.sampling import SamplingSettings
from tests.tiny_models import randomize, tiny_restorer


def living(**flow):
    """A restorer whose conditioner matters."""
    restorer = tiny_restorer(conditioner={"estimate": True}, flow=flow, seed=5)
    randomize(restorer.conditioner, 1, scale=0.1)
    return restorer.eval()


def images():
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_they_are_the_restorers_own_where_nothing_is_given():
    flow = {"steps": 3, "start": "degraded", "sigma_start": 0.4, "sampler": "heun"}
    settings = living(**flow).sampling_settings(steps=None, tile=None, steer=None)
    assert settings == SamplingSettings(**flow, guidance=1.0, seed=5, color="none", tile=None, steer=None)
    assert living(**flow).sampling_settings(seed=0, steps=0) == SamplingSettings(**flow | {"steps": 0}, guidance=1.0, seed=0)


def test_overrides_change_given_settings_and_leave_the_given_ones_alone():
    restorer = living(steps=3)
    given = restorer.sampling_settings(start="degraded", seed=1)
    assert restorer.sampling_settings(given, steps=2) == SamplingSettings(2, "degraded", 1.0, "euler", 1.0, 1)
    assert given.steps == 3
    with pytest.raises(FrozenInstanceError):
        given.steps = 2


def test_settings_and_keywords_restore_alike_and_a_number_is_the_steps():
    restorer = living()
    expected = restorer.restore(images(), steps=3, start="degraded", sigma_start=0.5)
    settings = restorer.sampling_settings(steps=3, start="degraded", sigma_start=0.5)
    assert torch.equal(restorer.restore(images(), settings), expected)
    assert torch.equal(restorer.restore(images(), restorer.sampling_settings(start="degraded", sigma_start=0.5), steps=3), expected)
    assert torch.equal(restorer.restore(images(), 3, start="degraded", sigma_start=0.5), expected)
    assert not torch.equal(restorer.restore(images(), settings, steps=1), expected)


def test_settings_are_complete_the_flow_changes_nothing_any_more():
    restorer, other = living(), living(steps=5, start="estimate", sigma_start=0.3, sampler="heun")
    settings = restorer.sampling_settings()
    assert torch.equal(other.restore(images(), settings), restorer.restore(images()))
    assert not torch.equal(other.restore(images()), restorer.restore(images()))


def test_a_sampler_may_be_chosen_for_one_call():
    restorer, heun = living(steps=3), living(steps=3, sampler="heun")
    expected = heun.restore(images())
    assert torch.equal(restorer.restore(images(), sampler="heun"), expected)
    assert restorer.flow.sampler == "euler" and not torch.equal(restorer.restore(images()), expected)


@pytest.mark.parametrize(("sampler", "steps", "evaluations"), [("euler", 4, 4), ("heun", 4, 7), ("heun", 0, 0)])
def test_evaluations_are_counted(sampler, steps, evaluations):
    assert living().sampling_settings(sampler=sampler, steps=steps).num_evaluations == evaluations


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": -1}, "steps=-1 is negative; use 0"),
        ({"start": "middle"}, "start 'middle' is unknown; choose one of noise, degraded, estimate"),
        ({"sigma_start": 0.0}, r"sigma_start=0.0 is outside \(0, 1\]"),
        ({"sampler": "dice"}, "sampler 'dice' is unknown; choose one of euler, heun"),
        ({"guidance": -1.0}, "guidance=-1.0 must be finite and at least 0"),
        ({"color": "sepia"}, "color 'sepia' is unknown; choose one of none, wavelet, adain"),
        ({"tile": 0}, "tile=0 must be at least 1; use null for one piece"),
        ({"steer": {"swin": -1.0}}, "steer swin=-1 must be finite and at least 0; 1 changes nothing"),
        ({"steer": {"swin": float("nan")}}, "steer swin=nan must be finite"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_limit_and_remedy(options, words):
    own = {"steps": 1, "start": "noise", "sigma_start": 1.0, "sampler": "euler", "guidance": 1.0, "seed": 0}
    with pytest.raises(ValueError, match=words):
        SamplingSettings(**own | options)


def test_a_restorer_that_lacks_what_settings_need_refuses_them():
    settings = living().sampling_settings(start="estimate")
    with pytest.raises(ValueError, match="start 'estimate' needs a conditioner with estimate: true"):
        tiny_restorer().restore(images(), settings)
    with pytest.raises(TypeError, match="stepz"):
        tiny_restorer().restore(images(), stepz=3)
