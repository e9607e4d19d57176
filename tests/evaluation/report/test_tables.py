"""Tables: order, marks, and the three forms."""

import csv
import io

import pytest

from mimdit.evaluation.report import load_published, make_tables, read_run
from mimdit.evaluation.report.runs import GROUP_MEAN, IMAGE_MEAN
from mimdit.evaluation.report.tables import differing_images, to_csv, to_latex, to_markdown
from tests.evaluation.report.made_results import row, write_run


@pytest.fixture
def tables(tmp_path):
    first = [row("12NightRain", 1, 31.0, 0.30), row("05Noise", 1, 21.0, 0.10), row("01Blur", 1, 30.001, 0.2)]
    second = [row("12NightRain", 1, 29.0, 0.20), row("05Noise", 1, 23.0, 0.20), row("01Blur", 1, 30.004, 0.3)]
    third = [row("12NightRain", 1, 25.0, 0.25), row("05Noise", 1, 20.0, 0.40), row("01Blur", 1, 20.0, 0.1)]
    folders = [write_run(tmp_path / name, rows) for name, rows in (("a", first), ("b", second), ("c_d", third))]
    return make_tables([read_run(str(folder)) for folder in folders], load_published())


def cells(text: str, label: str) -> list[str]:
    return [cell.strip() for cell in next(line for line in text.splitlines() if line.startswith(f"| {label} |")).split("|")[2:-1]]


def test_published_rows_come_first_and_groups_are_in_the_papers_order(tables):
    psnr, lpips = tables
    assert psnr.columns[:4] == ("01Blur", "05Noise", "06JPEG", "08Haze") and psnr.columns[-2:] == (GROUP_MEAN, IMAGE_MEAN)
    labels = [line.label for line in psnr.lines]
    assert labels[0] == "Real-ESRGAN" and labels[-4:] == ["degraded input", "a", "b", "c_d"]
    assert [line.label for line in lpips.lines] == ["degraded input", "a", "b", "c_d"]
    assert lpips.columns == ("01Blur", "05Noise", "12NightRain", GROUP_MEAN, IMAGE_MEAN)


def test_best_and_second_best_are_marked_as_printed_and_the_input_is_not(tables):
    text = to_markdown(tables, ["a remark"])
    lpips = text[text.index("## foundir: lpips (lower is better)") :]
    assert cells(lpips, "a") == ["<u>0.2000</u>", "**0.1000**", "0.3000", "**0.2000**", "**0.2000**"]
    assert cells(lpips, "b") == ["0.3000", "<u>0.2000</u>", "**0.2000**", "<u>0.2333</u>", "<u>0.2333</u>"]
    assert cells(lpips, "degraded input") == ["0.5000"] * 5
    psnr = text[: text.index("## foundir: lpips")]
    # FoundIR's 25.93 and 24.34 lie below both runs' 30.00, which are equal as printed.
    assert [cells(psnr, label)[0] for label in ("a", "b", "FoundIR (generalist and specialists)")] == [
        "**30.00**",
        "**30.00**",
        "<u>25.93</u>",
    ]
    assert "assets/quantitative_results.png" in text and "- a remark" in text


def test_latex_marks_and_escapes(tables):
    text = to_latex(tables[1:])
    assert r"a & \underline{0.2000} & \textbf{0.1000} & 0.3000" in text and r"c\_d & " in text
    assert text.count(r"\\") == 5 and r"\begin{tabular}{lccccc}" in text


def test_csv_has_every_figure_with_its_place(tables):
    read = list(csv.DictReader(io.StringIO(to_csv(tables))))
    (found,) = [line for line in read if (line["method"], line["metric"], line["column"]) == ("a", "lpips", "05Noise")]
    assert float(found["value"]) == 0.1 and found["place"] == "1" and found["images"] == "1"
    (published,) = [
        line for line in read if line["method"].startswith("FoundIR (") and (line["metric"], line["column"]) == ("psnr", "08Haze")
    ]
    assert float(published["value"]) == 22.19 and published["images"] == ""


def test_runs_on_different_images_do_not_compare(tmp_path):
    folders = [
        write_run(tmp_path / "a", [row("08Haze", 1, 20.0)]),
        write_run(tmp_path / "b", [row("08Haze", 1, 20.0), row("08Haze", 2, 2.0)]),
    ]
    remarks = differing_images(make_tables([read_run(str(folder)) for folder in folders], {}))
    assert "a 1, b 2" in remarks[0]
