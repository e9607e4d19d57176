"""``mimdit report`` as a user calls it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimdit import cli
from tests.evaluation.report.made_results import GATES, row, write_run

WEIGHTS = Path(cli.__file__).parent / "weights" / "restorer"


def test_runs_become_three_files_and_the_gates_a_figure_a_block(tmp_path, capsys):
    swapped = {"inter": [pair[::-1] for pair in GATES["inter"]], "intra": GATES["intra"]}
    write_run(tmp_path / "a", [row("08Haze", 1, 20.0, routing=GATES), row("05Noise", 1, 30.0, routing=swapped)])
    write_run(tmp_path / "b", [row("08Haze", 1, 21.0), row("05Noise", 1, 31.0)])
    cli.main(["report", f"first={tmp_path / 'a'}", str(tmp_path / "b"), "--output", str(tmp_path / "out")])
    said, files = capsys.readouterr().out, {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    blocks = {f"routing/first_foundir_block{block}.png" for block in range(2)}
    assert files == {"report.md", "report.tex", "report.csv", *blocks}
    assert (tmp_path / "out" / "report.md").read_text() in said and "| first |" in said
    picture = np.asarray(Image.open(tmp_path / "out" / "routing" / "first_foundir_block0.png"))
    assert picture.std() > 10


def test_the_shipped_results_and_the_ablation_table_on_top(tmp_path, capsys):
    write_run(tmp_path / "full", [row("08Haze", 1, 20.0)], {})
    cli.main(["report", str(tmp_path / "full"), "--ablation", "--output", str(tmp_path / "out")])
    assert capsys.readouterr().out.startswith("## Ablation")
    cli.main(["report", str(WEIGHTS), "--output", str(tmp_path / "out")])
    assert "restorer has no results.jsonl" in capsys.readouterr().out


def test_two_runs_of_one_name_are_refused(tmp_path, capsys):
    for name in ("x/a", "y/a"):
        write_run(tmp_path / name, [row("08Haze", 1, 20.0)])
    with pytest.raises(SystemExit, match="2"):
        cli.main(["report", str(tmp_path / "x" / "a"), str(tmp_path / "y" / "a")])
    assert "two runs are called a; name them" in capsys.readouterr().err


def test_runs_are_compared_image_by_image(tmp_path, capsys):
    for name, psnr in (("a", 20.0), ("b", 21.5)):
        write_run(tmp_path / name, [row("08Haze", 1, psnr), row("05Noise", 1, psnr)])
    cli.main(["report", "--compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out")])
    text = capsys.readouterr().out
    assert text.startswith("## Paired differences") and "| b - a | foundir | psnr | 2 | **+1.50 [+1.50, +1.50]** |" in text
    assert len((tmp_path / "out" / "comparison.csv").read_text().splitlines()) == 3
    with pytest.raises(SystemExit, match="2"):
        cli.main(["report", "--compare", str(tmp_path / "a"), "--output", str(tmp_path / "out")])
    assert "comparing needs at least two runs" in capsys.readouterr().err
