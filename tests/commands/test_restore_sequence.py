"""``mimdit restore --sequence``."""

import os

import numpy as np
import pytest
from PIL import Image

from datamodules.images import read_photo
from mimdit import cli
from mimdit.commands import restore as command
from mimdit.restorer.pixels import as_images, restore_pixels
from mimdit.restorer.sequences import shot_of
from tests.tiny_models import randomize, tiny_restorer


@pytest.fixture(autouse=True)
def model(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = {"estimate": True, "tone_powers": [0, 1]}
    made = tiny_restorer(conditioner=options, flow={"steps": 2, "start": "estimate", "sigma_start": 0.3}).eval()
    randomize(made.conditioner, 1, scale=0.1)
    monkeypatch.setattr(command, "load_restorer", lambda checkpoint: made)
    return made


def run(*args):
    """The exit code."""
    try:
        cli.main(["restore", *map(str, args)])
    except SystemExit as left:
        return left.code
    return 0


def shoot(folder, names, size=(24, 32), noise=20):
    """Frames of a still scene with independent noise."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = np.random.default_rng(0).integers(40, 200, (*size, 3))
    for index, name in enumerate(names):
        frame = scene + noise * np.random.default_rng(index + 1).standard_normal(scene.shape)
        Image.fromarray(frame.clip(0, 255).astype(np.uint8)).save(folder / name)


def pixels(path):
    return read_photo(path).pixels


def test_every_frame_is_restored_with_the_decisions_of_its_shot(tmp_path, model):
    names = [f"f_{number}.png" for number in (1, 2, 9, 10)]
    shoot(tmp_path / "in/one", names)
    shoot(tmp_path / "in/two", names, size=(16, 24))
    assert run("in", "out", "--sequence") == 0
    for folder in ("one", "two"):
        frames = [pixels(tmp_path / "in" / folder / name) for name in names]
        settings = model.sampling_settings()
        shot = shot_of(model, map(as_images, frames), settings)
        for name, frame in zip(names, frames):
            result = pixels(tmp_path / "out" / folder / name)
            assert np.array_equal(result, restore_pixels(model, frame, settings, shot=shot))


def test_frames_that_are_equal_come_back_equal(tmp_path):
    shoot(tmp_path / "in", [f"{number:03}.png" for number in range(4)], noise=0)
    assert run("in", "out", "--sequence", "--start", "noise") == 0
    first, *others = (pixels(tmp_path / "out" / f"{number:03}.png") for number in range(4))
    assert all(np.array_equal(first, other) for other in others)


def test_an_interrupted_call_continues_with_the_same_decisions(tmp_path):
    shoot(tmp_path / "in", [f"{number}.png" for number in range(12)])
    assert run("in", "out", "--sequence") == 0
    before = pixels(tmp_path / "out/7.png")
    os.remove(tmp_path / "out/7.png")
    assert run("in", "out", "--sequence") == 0 and np.array_equal(pixels(tmp_path / "out/7.png"), before)


def test_frames_are_taken_in_the_order_of_their_numbers(tmp_path, monkeypatch):
    shoot(tmp_path / "in", [f"f{number}.png" for number in (10, 9, 100, 1)])
    seen = []
    monkeypatch.setattr(command, "restore_one", lambda restorer, job, settings, **options: seen.append(job.source.stem) or ())
    assert run("in", "out", "--sequence") == 0 and seen == ["f1", "f9", "f10", "f100"]


def test_parts_hold_whole_shots(tmp_path, capsys):
    for folder in "abcd":
        shoot(tmp_path / "in" / folder, ["1.png", "2.png"], size=(16, 16))
    for part in (1, 2):
        assert run("in", f"out{part}", "--sequence", "--part", f"{part}/2") in (0, 2)
    held = [{path.parent.name: len(os.listdir(path.parent)) for path in (tmp_path / f"out{part}").rglob("*.png")} for part in (1, 2)]
    assert not held[0].keys() & held[1].keys() and held[0] | held[1] == dict.fromkeys("abcd", 2)


def test_a_frame_that_cannot_be_read_is_named_and_the_others_are_restored(tmp_path, capsys):
    shoot(tmp_path / "in", ["1.png", "2.png", "3.png"])
    data = (tmp_path / "in/2.png").read_bytes()
    (tmp_path / "in/2.png").write_bytes(data[: len(data) // 2])
    assert run("in", "out", "--sequence") == 1 and sorted(os.listdir("out")) == ["1.png", "3.png"]
    assert "in/2.png: its PNG data is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1.png", "2.png", "cover.png"], "in/cover.png has no number"),
        (["a1.png", "b1.png"], "in/a1.png and b1.png are not numbered alike"),
        (["1_1.png", "1_2.png", "2_1.png", "2_2.png"], "the names in in differ in more than one number"),
    ],
)
def test_what_is_no_shot_is_refused_with_the_remedy(tmp_path, capsys, names, words):
    shoot(tmp_path / "in", names)
    assert run("in", "out", "--sequence") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert words in said and "give each shot a folder of its own" in said and not (tmp_path / "out").exists()


def test_frames_of_mixed_sizes_are_refused_by_name(tmp_path, capsys):
    shoot(tmp_path / "in", ["1.png", "2.png"])
    shoot(tmp_path / "in", ["3.png"], size=(16, 24))
    assert run("in", "out", "--sequence") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "in/3.png has 24x16 pixels and in/1.png 32x24" in said and not (tmp_path / "out").exists()


def test_a_mask_and_an_amount_apply_to_every_frame(tmp_path):
    shoot(tmp_path / "in", ["1.png", "2.png"])
    mask = np.zeros((24, 32), np.uint8)
    mask[:, 16:] = 255
    Image.fromarray(mask).save("mask.png")
    assert run("in", "out", "--sequence", "--mask", "mask.png", "--amount", 0.5) == 0
    for name in ("1.png", "2.png"):
        source, result = pixels(tmp_path / "in" / name), pixels(tmp_path / "out" / name)
        assert np.array_equal(result[:, :16], source[:, :16]) and not np.array_equal(result, source)
