"""Texts of degradations: lists, and the nearest of several."""

import pytest

from mimdit.backbone.degradation_texts import DEFAULT_TEXTS, nearest_text, read_texts
from mimdit.core.batch import ATOMS


def test_the_default_has_a_text_for_each_degradation():
    assert set(read_texts("default")) == set(ATOMS) and all(texts and all(texts) for texts in DEFAULT_TEXTS.values())


def test_a_file_has_one_text_or_several(tmp_path):
    file = tmp_path / "texts.yaml"
    file.write_text("haze: a photo with haze\nnoise: [grain, a noisy photo]\n")
    assert read_texts(str(file)) == {"haze": ("a photo with haze",), "noise": ("grain", "a noisy photo")}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("hase: a photo", "'hase' is no degradation; choose from blur, noise"),
        ("haze: []", "haze has .*; give one text, or a list"),
        ("haze: 3", "haze has 3; give one text"),
        ("haze: ['']", "none of them empty"),
        ("just text", "holds no texts by degradation"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, content, words):
    file = tmp_path / "texts.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=words):
        read_texts(str(file))
    with pytest.raises(ValueError, match="does not exist"):
        read_texts(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("remove the haze, keep the grain", "remove the haze and fog"),
        ("Denoise!", "a photo with noise and grain"),
        ("please brighten it", "brighten the dark photo"),
        ("a photo with rain", "a photo with rain"),
        ("there are raindrops on the lens of my camera", "remove the raindrops on the lens"),
    ],
)
def test_the_nearest_text_shares_most_of_its_spelling(text, expected):
    texts = [text for texts in DEFAULT_TEXTS.values() for text in texts]
    assert nearest_text(text, texts)[0] == expected


def test_the_similarity_is_the_cosine_of_trigrams():
    assert nearest_text("Rain", ["rain"]) == ("rain", pytest.approx(1.0))
    one, other = {" ra", "rai", "ain", "in "}, {" ra", "rai", "ain", "iny", "ny "}
    expected = len(one & other) / (len(one) * len(other)) ** 0.5
    assert nearest_text("rain", ["rainy"])[1] == pytest.approx(expected)
    with pytest.raises(ValueError, match="shares nothing with the cached texts; use words of 'haze'"):
        nearest_text("qqq", ["haze"])
