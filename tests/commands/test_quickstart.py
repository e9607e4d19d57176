"""The end of ``mimdit quickstart``: the table of its test."""

from mimdit.commands.quickstart import _report
from mimdit.evaluation.results import Results, write_results
from mimdit.evaluation.summary import summarize


def test_the_table_has_every_group_and_the_mean_without_images_that_need_nothing(tmp_path, capsys):
    scores = {"00Clean": (100.0, 40.0), "05Noise": (20.0, 25.0), "08Haze": (10.0, 21.0)}
    rows = [
        {"test_set": "test", "group": group, "key": "a", "degradations": [], "identical_input": group == "00Clean", "notes": {}}
        | {side: {"psnr_rgb": psnr, "ssim_rgb": 0.5} for side, psnr in zip(("input", "output"), pair)}
        for group, pair in scores.items()
    ]
    write_results(tmp_path / "results.json", Results(summarize(rows), rows))
    _report(tmp_path / "results.json", tmp_path)
    lines = {line[:24].strip(): line[24:].split() for line in capsys.readouterr().out.splitlines()}
    assert lines["05Noise"] == ["20.00", "25.00", "0.500", "0.500"] and lines["00Clean"][:2] == ["100.00", "40.00"]
    assert lines["mean of groups"] == ["15.00", "23.00", "0.500", "0.500"]
