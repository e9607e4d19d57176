"""The quickstart's validation and test pairs are frozen: figures of all times are on the same pixels.

The digests of all pairs take half a minute, hence the daily test is on one draw of every photograph in every group.
"""

import json

import pytest

from tests.datamodules.plain_process import REPOSITORY, printed
from tests.datamodules.synthetic.frozen_pixels import frozen_folders, recipes_digest

FROZEN = json.loads((REPOSITORY / "tests" / "data" / "frozen_quickstart.json").read_text())


def pixels(draws: str) -> dict:
    return printed("tests.datamodules.synthetic.frozen_pixels", draws)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_recipes_are_those_of_always(split):
    recipes = frozen_folders()[split]
    assert len(recipes) == FROZEN["pairs"][split]
    assert recipes_digest(recipes) == FROZEN["recipes_sha256"][split]


def test_pixels_of_one_draw_are_those_of_always():
    assert pixels("one") == FROZEN["pixels_sha256"]["one"]


@pytest.mark.long
def test_pixels_of_all_draws_are_those_of_always():
    assert pixels("all") == FROZEN["pixels_sha256"]["all"]
