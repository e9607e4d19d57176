"""Quotas of the groups: proportional, exact in sum, and each group's order continuing where it was."""

import pytest

from datamodules.streaming.mixture import Mixture, make_quotas

SIZES = {"01Blur": 100, "05Noise": 40, "08Haze": 60}


def test_without_weights_an_epoch_is_everything_once():
    assert make_quotas(SIZES) == SIZES == make_quotas(SIZES, temperature=1)
    assert make_quotas(SIZES, groups=["08Haze", "01Blur"]) == {"01Blur": 100, "08Haze": 60}


def test_weights_share_out_the_size_of_the_chosen_groups():
    assert make_quotas(SIZES, weights={"01Blur": 1, "08Haze": 3}) == {"01Blur": 40, "08Haze": 120}
    assert make_quotas(SIZES, weights={"01Blur": 1, "05Noise": 1, "08Haze": 1}) == {"01Blur": 67, "05Noise": 67, "08Haze": 66}
    assert make_quotas(SIZES, weights={"01Blur": 0, "08Haze": 3}) == {"08Haze": 160}


@pytest.mark.parametrize("temperature", [0.5, 2.0, 1e9])
def test_temperature_is_the_power_of_the_sizes(temperature):
    quotas, powers = make_quotas(SIZES, temperature=temperature), {group: size ** (1 / temperature) for group, size in SIZES.items()}
    assert sum(quotas.values()) == 200
    for group in SIZES:
        assert abs(quotas[group] - 200 * powers[group] / sum(powers.values())) < 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"groups": ["02Fog"]}, "no training group '02Fog'. The shards hold 01Blur, 05Noise, 08Haze"),
        ({"weights": {"02Fog": 1}}, "no training group '02Fog'"),
        ({"groups": []}, "data.groups is empty"),
        ({"groups": ["01Blur", "08Haze"], "weights": {"01Blur": 1}}, "does not name 08Haze"),
        ({"weights": {"01Blur": -1, "08Haze": 1}}, "at least 0"),
        ({"weights": {"01Blur": 0}}, "one of them above"),
        ({"weights": {"01Blur": 1}, "temperature": 2}, "both set"),
        ({"temperature": 0}, "data.temperature is 0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_quotas(SIZES, **options)


def test_another_mixture_continues_every_line_and_remembers_the_groups_left_out():
    first = Mixture({"01Blur": 10, "08Haze": 5})
    second = first.followed_by({"05Noise": 7}, first_epoch=3)
    third = second.followed_by({"01Blur": 2, "05Noise": 1}, first_epoch=5)
    assert [second.start(group, 3) for group in ("01Blur", "05Noise", "08Haze")] == [30, 0, 15]
    assert [third.start(group, 6) for group in ("01Blur", "05Noise", "08Haze")] == [32, 15, 15]
    assert Mixture.from_state_dict(third.state_dict()) == third
