"""The model card of a restorer's folder."""

import pytest
from huggingface_hub import ModelCard

from mimdit.backbone.pretrained import Origin, set_origin
from mimdit.evaluation.summary import summarize
from mimdit.restorer.model_card import CardFacts, Measured, write_model_card
from tests.tiny_models import tiny_restorer


def row(key, before, after, group="05Noise"):
    scores = {side: {"psnr": psnr, "ssim": None} for side, psnr in (("input", before), ("output", after))}
    return {"test_set": "made", "group": group, "key": key, "degradations": ["noise"], "identical_input": False, "notes": {}} | scores


def card(folder, restorer=None, **options):
    assert write_model_card(folder, restorer or tiny_restorer(), **options)
    return ModelCard.load(folder / "README.md")


def test_what_is_told_is_in_the_metadata_and_in_the_text(tmp_path):
    made = card(tmp_path, title="someone/model", facts=CardFacts("mit", "A thousand pairs.", ["someone/pairs", "other/pairs"]))
    assert (made.data.license, made.data.datasets, made.data.pipeline_tag) == ("mit", ["someone/pairs", "other/pairs"], "image-to-image")
    assert made.text.lstrip().startswith("# someone/model\n") and 'from_pretrained("someone/model")' in made.text
    assert "A thousand pairs.\n\nData sets: [someone/pairs](https://huggingface.co/datasets/someone/pairs), [other/" in made.text
    heads = [line for line in made.text.splitlines() if line.startswith("## ")]
    assert heads == ["## Intended use", "## Limits", "## Training data", "## License", "## Results"]


def test_what_is_not_told_is_left_open(tmp_path):
    made = card(tmp_path)
    assert made.data.license is None and made.data.datasets is None and made.text.count("Not stated.") == 2 and "Not measured" in made.text


def test_results_are_the_means_of_images_of_each_test_set(tmp_path):
    summaries = summarize([row("a", 20.0, 25.0), row("b", 22.0, 26.0), row("c", 9.0, 9.5, "08Haze")])
    made = card(tmp_path, facts=CardFacts(measured=Measured("runs/pairs", 7, 18.123, 24.567), test_sets=summaries))
    assert "| `pairs` | 7 | 18.12 | 24.57 |" in made.text
    heads = "| test set | images | psnr of the input | psnr of the result | ssim of the input | ssim of the result |"
    assert f"{heads}\n|---|---:|---:|---:|---:|---:|\n| made | 3 | 17.00 | 20.17 | - | - |" in made.text


@pytest.mark.parametrize("revision, base", [("a1b2", "someone/base"), (None, None)], ids=["from the hub", "from a folder"])
def test_a_transformer_of_the_hub_is_the_base_model(revision, base, tmp_path):
    restorer = tiny_restorer()
    set_origin(restorer.backbone.transformer, Origin("someone/base", revision))
    made = card(tmp_path, restorer)
    assert made.data.base_model == base and "The transformer is not in the folder: it is `someone/base`." in made.text


def test_a_card_that_is_there_stays(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    assert not write_model_card(tmp_path, tiny_restorer()) and (tmp_path / "README.md").read_text() == "mine"
