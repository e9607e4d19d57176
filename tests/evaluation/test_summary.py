"""Means over images, groups, isolated and coupled degradations, each image once; and the table of them."""

import pytest

from mimdit.evaluation.summary import format_summary, summarize, unique_rows


def row(
    group: str,
    key: str,
    psnr: float | None,
    degradations: str,
    given: float | None = 10.0,
    test_set: str = "A",
    why: str = "",
    identical: bool = False,
) -> dict:
    scores = {"output": {"psnr": psnr}, "input": {"psnr": given}, "notes": {"psnr": why} if why else {}}
    names = {"test_set": test_set, "group": group, "key": key, "degradations": degradations.split(), "identical_input": identical}
    return names | scores


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
    summary = summarize([*ROWS, row("00Clean", "5", 45, "", given=80.0, identical=True)])["A"]
    assert summary["left_out"] == ["00Clean"] and summary["groups"]["00Clean"]["output"]["psnr"] == 45
    assert summary["mean_of_images"]["output"]["psnr"] == 30 and summary["mean_of_images"]["images"] == 3
    alone = summarize([row("00Clean", "5", 45, "", given=80.0, identical=True)])["A"]
    assert alone["left_out"] == [] and alone["mean_of_images"]["output"]["psnr"] == 45


def test_each_image_once_in_order():
    other = row("01Blur", "1", 50, "blur", test_set="B")
    rows = unique_rows([ROWS[2], ROWS[0], other, ROWS[2], ROWS[1], ROWS[0]], ["B", "A"])
    assert rows == [other, *ROWS]


def test_the_table_shows_a_dash_and_its_reason():
    text = format_summary("A", summarize([*ROWS, row("13Rain_Haze", "9", None, "rain haze", why="too small")])["A"])
    assert "psnr: 1 without a score: too small" in text
    lines = text.splitlines()
    assert lines[1].split() == ["mean", "of", "images", "4", "input", "10.000"] and lines[2].split() == ["output", "30.000"]
    nothing = format_summary("A", summarize([row("x", "4", None, "", given=None, why="weights missing")])["A"])
    assert nothing.splitlines()[2].split() == ["output", "-"]


def test_whether_an_image_needs_nothing_is_what_its_row_says_not_its_psnr():
    rows = [*ROWS, row("00Clean", "5", 45, "", given=100.0)]
    assert summarize(rows)["A"]["left_out"] == []
    # One image of a group that needs nothing does not take the group out.
    rows = [*ROWS, row("00Clean", "5", 45, "", identical=True), row("00Clean", "6", 45, "")]
    assert summarize(rows)["A"]["left_out"] == [] and summarize(rows)["A"]["mean_of_images"]["images"] == 5


def test_variants_have_their_means_and_lines():
    rows = [each | {"estimate": {"psnr": each["output"]["psnr"] - 1}, "gates_uniform": {"psnr": 7.0}} for each in ROWS]
    summary = summarize(rows)["A"]
    assert summary["mean_of_groups"]["estimate"]["psnr"] == 31.5 and summary["groups"]["01Blur"]["gates_uniform"]["psnr"] == 7
    assert [line.split()[-2] for line in format_summary("A", summary).splitlines()[1:5]] == ["input", "output", "estimate", "gates_uniform"]


def test_broken_scores_and_no_scores_are_errors_that_say_so():
    with pytest.raises(ValueError, match="psnr of the output of image 08Haze/a is nan"):
        summarize([row("08Haze", "a", float("nan"), "haze")])
    with pytest.raises(ValueError, match="no image"):
        summarize([])
