"""Means over images, groups, isolated and coupled degradations, each image once; and the table of them."""

import pytest

from mimdit.evaluation.iqa.summary import each_once, summarize
from mimdit.evaluation.iqa.table import table


def row(group: str, key: str, psnr: float | None, degradations: str, given: float = 10.0, benchmark: str = "A", why: str = "") -> dict:
    scores = {"output": {"psnr": psnr}, "input": {"psnr": given}, "notes": {"psnr": why} if why else {}}
    return {"benchmark": benchmark, "group": group, "key": key, "degradations": degradations.split()} | scores


ROWS = [row("01Blur", "1", 20, "blur"), row("01Blur", "2", 30, "blur"), row("13Rain_Haze", "3", 40, "rain haze")]


def test_both_means_and_both_parts():
    summary = summarize(ROWS)["A"]
    assert summary["mean_of_images"] == {"images": 3, "output": {"psnr": 30.0}, "input": {"psnr": 10.0}}
    assert summary["mean_of_groups"] == {"images": 3, "output": {"psnr": 32.5}, "input": {"psnr": 10.0}}
    assert summary["isolated"]["output"]["psnr"] == 25 and summary["coupled"]["output"]["psnr"] == 40
    assert {name: means["images"] for name, means in summary["groups"].items()} == {"01Blur": 2, "13Rain_Haze": 1}


def test_foundirs_published_average_is_the_mean_of_its_groups():
    published = "25.93 38.98 34.03 22.19 34.29 29.74 18.98 23.87 29.58 40.43 21.80 22.82 33.96 24.15 18.95 29.08 23.56 22.55 33.46 27.98"
    means = [float(number) for number in published.split()]
    # Blur, Noise, JPEG, Haze, Rain, Raindrop, Lowlight | B+N B+J N+J R+H L+H L+R L+B L+N L+J L+B+N L+B+J L+N+J B+N+J
    images = [150, 100, 50, 200, 100, 100, 50, 50, 50, 50, 50, 100, 50, 100, 50, 50, 50, 50, 50, 50]
    rows = [row(f"g{group:02d}", str(key), mean, "") for group, mean in enumerate(means) for key in range(images[group])]
    summary = summarize(rows)["A"]
    assert round(summary["mean_of_groups"]["output"]["psnr"], 2) == pytest.approx(27.81, abs=0.011)
    assert abs(summary["mean_of_images"]["output"]["psnr"] - 27.81) > 0.3


def test_an_image_without_a_score_does_not_count_and_is_told():
    summary = summarize([*ROWS, row("01Blur", "4", None, "blur", why="too small")])["A"]
    assert summary["groups"]["01Blur"]["output"]["psnr"] == 25 and summary["groups"]["01Blur"]["scored"] == {"psnr": 2}
    assert summary["notes"] == {"psnr": {"too small": 1}}
    nothing = summarize([row("01Blur", "4", None, "blur", given=None, why="no ground truth")])["A"]
    assert nothing["mean_of_images"]["output"]["psnr"] is None and nothing["mean_of_groups"]["output"]["psnr"] is None


def test_images_that_needed_nothing_are_in_no_mean():
    summary = summarize([*ROWS, row("00Clean", "5", 45, "", given=80.0)])["A"]
    assert summary["left_out"] == ["00Clean"] and summary["groups"]["00Clean"]["output"]["psnr"] == 45
    assert summary["mean_of_images"]["output"]["psnr"] == 30 and summary["mean_of_images"]["images"] == 3
    alone = summarize([row("00Clean", "5", 45, "", given=80.0)])["A"]
    assert alone["left_out"] == [] and alone["mean_of_images"]["output"]["psnr"] == 45


def test_each_image_once_in_order():
    other = row("01Blur", "1", 50, "blur", benchmark="B")
    rows = each_once([ROWS[2], ROWS[0], other, ROWS[2], ROWS[1], ROWS[0]], ["B", "A"])
    assert rows == [other, *ROWS]


def test_the_table_shows_a_dash_and_its_reason():
    text = table("A", summarize([*ROWS, row("13Rain_Haze", "9", None, "rain haze", why="too small")])["A"])
    assert "psnr: 1 without a score: too small" in text
    lines = text.splitlines()
    assert lines[1].split() == ["mean", "of", "images", "4", "input", "10.000"] and lines[2].split() == ["output", "30.000"]
    nothing = table("A", summarize([row("x", "4", None, "", given=None, why="weights missing")])["A"])
    assert nothing.splitlines()[2].split() == ["output", "-"]
