"""``mimdit identify`` by its command line."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images import read_photo
from mimdit import cli
from mimdit.commands import identify as command
from mimdit.core.batch import ATOMS
from mimdit.restorer.identification import identify_pixels
from tests.datamodules.images.made_images import deep, encoded
from tests.tiny_models import randomize, tiny_restorer


def run(*args: str):
    """The exit code."""
    try:
        cli.main(["identify", *args])
    except SystemExit as left:
        return left.code
    return 0


@pytest.fixture
def model(monkeypatch, tmp_path):
    """A restorer that identifies, in a folder with photographs ``in/a.png``, ``in/sub/deep.png``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/a.png").write_bytes(encoded("PNG"))
    (tmp_path / "in/sub/deep.png").write_bytes(deep(".png"))
    made = tiny_restorer(conditioner={"identify": True}, flow={"start": "degraded", "sigma_start": 0.5})
    randomize(made.conditioner, 3)
    monkeypatch.setattr(command, "load_restorer", lambda checkpoint: made.eval())
    return made


def expected(model) -> dict[str, dict[str, float]]:
    return {name: identify_pixels(model, read_photo(Path(name)).pixels) for name in ("in/a.png", "in/sub/deep.png")}


def test_a_row_for_each_photograph_with_stars_at_the_likely_ones(model, capsys):
    found = expected(model)
    middle = float(np.median([value for each in found.values() for value in each.values()]))
    assert run("in", "--likely", str(middle)) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == list(ATOMS) and [row.split()[0] for row in rows] == list(found)
    for row, each in zip(rows, found.values(), strict=True):
        assert row.split()[1:] == [f"{value:.2f}{'*' if value >= middle else ''}" for value in each.values()]
    assert 0 < sum(row.count("*") for row in rows) < 2 * len(ATOMS)


def test_the_files_hold_what_the_table_shows(model):
    found = expected(model)
    assert run("in", "in/a.png", "--json", "new/a.json", "--csv", "a.csv", "--likely", "0.2") == 0
    told = json.loads(Path("new/a.json").read_text())
    assert told["checkpoint"] == "embedded" and told["failed"] == {} and told["likely_from"] == 0.2
    assert [image["file"] for image in told["images"]] == list(found)  # in/a.png was named twice
    for image, each in zip(told["images"], found.values(), strict=True):
        assert image["probabilities"] == pytest.approx(each, abs=1e-5)
        ordered = [each[atom] for atom in image["likely"]]
        assert ordered == sorted((value for value in each.values() if value >= 0.2), reverse=True)
    rows = list(csv.DictReader(Path("a.csv").read_text().splitlines()))
    assert [row.pop("file") for row in rows] == list(found)
    for row, each in zip(rows, found.values(), strict=True):
        assert {atom: float(value) for atom, value in row.items()} == pytest.approx(each, abs=1e-5)


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_identified(model, capsys):
    Path("in/b.png").write_bytes(encoded("PNG")[:-20])
    Path("in/c.jpg").mkdir()
    assert run("in", "--json", "a.json") == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 3 and "identified 2, failed 2" in said.err
    assert "in/b.png: its PNG data is damaged" in said.err and "in/c.jpg: it is a folder" in said.err
    told = json.loads(Path("a.json").read_text())
    assert len(told["images"]) == 2 and list(told["failed"]) == ["in/b.png", "in/c.jpg"]


def test_large_images_are_read_in_pieces_with_the_same_answer(model, monkeypatch):
    whole, tiles = expected(model), []
    inner = command.identify_pixels
    monkeypatch.setattr(command, "identify_pixels", lambda *args: tiles.append(args[2].tile) or inner(*args))
    assert run("in", "--tile", "16", "--json", "a.json") == 0
    assert tiles == [16, 16]
    for image in json.loads(Path("a.json").read_text())["images"]:
        assert image["probabilities"] == pytest.approx(whole[image["file"]], abs=1e-5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["in", "--likely", "2"], "likely=2.0 is no probability; give 0 to 1"),
        (["in", "--csv", "in/../in/a.png"], "csv=in/../in/a.png would replace an image; name another file"),
        (["in/sub", "--json", "in/a.png"], "json=in/a.png would replace an image"),
        (["in", "--json", "a.txt", "--csv", "./a.txt"], "json and csv are both ./a.txt; name two files"),
        (["in", "--csv", "in"], "csv=in is a folder; name a file in it"),
        (["in", "--csv", "in/a.png/a.csv"], "in/a.png is no folder"),
    ],
    ids=["missing", "likely", "input", "image", "same", "folder", "parent"],
)
def test_mistakes_are_told_in_one_paragraph(model, monkeypatch, capsys, args, message):
    before = Path("in/a.png").read_bytes()
    monkeypatch.setattr(command, "load_restorer", None)  # not reached
    assert run(*args) == 2 and message in capsys.readouterr().err
    assert Path("in/a.png").read_bytes() == before


def test_the_images_that_failed_are_told_though_the_file_cannot_be_written(model, monkeypatch, capsys):
    Path("in/b.png").write_bytes(encoded("PNG")[:-20])

    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(command, "_write", full)
    assert run("in", "--csv", "a.csv") == 2
    assert "in/b.png: its PNG data is damaged" in capsys.readouterr().err


def test_a_name_in_another_encoding_keeps_its_bytes(model):
    name = os.fsencode("in/") + b"\xe4.png"
    Path(os.fsdecode(name)).write_bytes(encoded("PNG"))
    assert run("in", "--csv", "a.csv", "--json", "a.json") == 0
    assert name in Path("a.csv").read_bytes()
    assert os.fsdecode(name) in [image["file"] for image in json.loads(Path("a.json").read_text())["images"]]


def test_weights_without_a_head_are_refused_with_a_remedy(model, monkeypatch, capsys):
    monkeypatch.setattr(command, "load_restorer", lambda checkpoint: tiny_restorer())
    assert run("in") == 2
    said = capsys.readouterr()
    assert "Leave --checkpoint out" in said.err and "configs/ablation/identify.yaml" in said.err and said.out == ""


def test_the_embedded_weights_name_strong_noise_and_not_a_smooth_image(tmp_path, capsys):
    rows = np.linspace(40, 200, 128)[:, None, None] + np.zeros((1, 128, 3))
    noise = np.random.default_rng(0).normal(0, 35, (128, 128, 3))
    for name, image in (("smooth", rows), ("noisy", rows + noise)):
        Image.fromarray(image.clip(0, 255).round().astype(np.uint8)).save(tmp_path / f"{name}.png")
    assert run(str(tmp_path), "--json", str(tmp_path / "a.json"), "--device", "cpu") == 0
    noisy, smooth = json.loads((tmp_path / "a.json").read_text())["images"]
    assert "noise" in noisy["likely"] and "noise" not in smooth["likely"]
