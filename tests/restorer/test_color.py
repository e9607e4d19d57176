"""Giving an image the colors of another."""

import pytest
import torch

from mimdit.restorer.color import match_color


def image(seed, height=40, width=30):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 0.4 + 0.3


@pytest.mark.parametrize("how", ["none", "wavelet", "adain"])
def test_an_image_keeps_its_own_colors_where_they_are_the_references(how):
    own = image(0)
    torch.testing.assert_close(match_color(own.clone(), own, how), own)


@pytest.mark.parametrize("how", ["wavelet", "adain"])
def test_a_cast_goes_and_details_stay(how):
    own = image(0)
    cast = own + torch.tensor([0.1, -0.1, 0.05])[:, None, None]
    torch.testing.assert_close(match_color(cast.clone(), own, how), own)
    assert torch.equal(match_color(cast.clone(), own, "none"), cast)


def test_adain_gives_mean_and_spread_of_each_channel():
    one, other = image(0), image(1) * 0.5 + 0.2
    found = match_color(one.clone(), other, "adain")
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(moment(found, (2, 3)), moment(other, (2, 3)))


def test_wavelets_take_details_of_one_and_the_rest_of_the_other():
    one, other = image(0, 128, 128), torch.linspace(0.3, 0.7, 128).expand(2, 3, 128, 128)
    found = match_color(one.clone(), other, "wavelet")
    assert ((found - one)[..., 1:] - (found - one)[..., :-1]).abs().max() < 0.02  # what was changed is smooth
    blurred = torch.nn.functional.avg_pool2d(found, 64)
    assert (blurred - torch.nn.functional.avg_pool2d(other, 64)).abs().max() < 0.01


def test_rows_are_those_of_the_whole(monkeypatch):
    one, other = image(0, 150), image(1, 150)
    whole = match_color(one.clone(), other, "wavelet")
    monkeypatch.setattr("mimdit.core.canvas._AT_ONCE", 30 * 7)
    torch.testing.assert_close(match_color(one.clone(), other, "wavelet"), whole)


def test_an_unknown_way_is_an_error():
    with pytest.raises(ValueError, match="color 'magic' is unknown; choose one of none, wavelet, adain"):
        match_color(image(0), image(0), "magic")
