"""Numbers by name."""

import pytest

from mimdit.core.named_numbers import parse_named_numbers


def test_numbers_have_names_and_spaces_do_not_count():
    assert parse_named_numbers("haze=0, channel=2.5", option="steer", example="haze=0") == {"haze": 0.0, "channel": 2.5}


@pytest.mark.parametrize("text", ["haze", "haze=much", "", "haze=0,"])
def test_other_parts_are_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"steer '.*' cannot be read; write haze=0"):
        parse_named_numbers(text, option="steer", example="haze=0")


def test_a_name_has_one_value():
    with pytest.raises(ValueError, match=r"steer has haze twice; give it one value"):
        parse_named_numbers("haze=0, haze=1", option="steer", example="haze=0")
