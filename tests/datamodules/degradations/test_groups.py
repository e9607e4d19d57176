"""Names of groups and what they are made of."""

import pytest

from datamodules.degradations import CLEAN, GROUPS, atoms_of_group
from datamodules.degradations.groups import is_clean

FOUNDIR = {
    "01Blur": "blur",
    "02Blur_Noise": "blur noise",
    "03Blur_JPEG": "blur jpeg",
    "04Blur_Noise_JPEG": "blur noise jpeg",
    "05Noise": "noise",
    "06JPEG": "jpeg",
    "07Noise_JPEG": "noise jpeg",
    "08Haze": "haze",
    "09Lowlight_Haze": "lowlight haze",
    "10Rain": "rain",
    "11Raindrop": "raindrop",
    "12NightRain": "lowlight rain",
    "13Rain_Haze": "rain haze",
    "14Lowlight": "lowlight",
    "15Lowlight_Blur": "lowlight blur",
    "16Lowlight_Noise": "lowlight noise",
    "17Lowlight_JPEG": "lowlight jpeg",
    "18Lowlight_Blur_Noise": "lowlight blur noise",
    "19Lowlight_Blur_JPEG": "lowlight blur jpeg",
    "20Lowlight_Noise_JPEG": "lowlight noise jpeg",
}


def test_groups_are_foundirs_twenty_and_clean():
    assert {name: set(atoms) for name, atoms in GROUPS.items()} == {CLEAN: set()} | {
        name: set(text.split()) for name, text in FOUNDIR.items()
    }


@pytest.mark.parametrize(("name", "atoms"), [("Lowlight_Haze", ("haze", "lowlight")), ("31rain_JPEG", ("jpeg", "rain")), ("Clean", ())])
def test_other_names_of_the_pattern_are_read(name, atoms):
    assert atoms_of_group(name) == atoms


@pytest.mark.parametrize(("name", "token"), [("21Snow", "Snow"), ("02Blur_Fog", "Fog"), ("", ""), ("02Blur__Noise", "")])
def test_unknown_part_is_named(name, token):
    with pytest.raises(ValueError, match=f"unknown part '{token}'"):
        atoms_of_group(name)


def test_only_names_of_clean_say_that_nothing_is_needed():
    names = ["00Clean", "clean", *FOUNDIR, "AVIF_Q20", "Clean_Blur", "21Snow", ""]
    assert [name for name in names if is_clean(name)] == ["00Clean", "clean"]
