"""``mimdit restore --sequence``: the average of a shot's still pixels, by the command line."""

import numpy as np
import pytest
from PIL import Image

from datamodules.images import UnreadableImageError, find_shots
from datamodules.images.finding import plan
from mimdit.commands import shots
from mimdit.commands.shots import Shots
from mimdit.restorer.sequence import reference_frames
from mimdit.restorer.temporal import average_still
from tests.commands.made_restorers import Identity, run, use

COUNT = 7


@pytest.fixture
def frames(monkeypatch, tmp_path):
    """Noisy frames of a still scene in the folder ``in``, and a restorer that changes nothing."""
    use(Identity(), monkeypatch, tmp_path)
    monkeypatch.setattr(shots, "decide_for_shot", lambda restorer, frames, settings: None)
    rng = np.random.default_rng(0)
    written = [np.clip(120 + rng.normal(0, 10, (48, 64, 3)), 0, 255).astype(np.uint8) for _ in range(COUNT)]
    (tmp_path / "in").mkdir()
    for index, frame in enumerate(written):
        Image.fromarray(frame).save(f"in/{index}.png")
    return written


def result(folder, index):
    return np.asarray(Image.open(f"{folder}/{index}.png"))


@pytest.mark.parametrize("smooth", [1, 2])
def test_a_frame_is_averaged_with_its_neighbors_within_the_shot(frames, smooth):
    assert run("in", "out", "--sequence", "--smooth", smooth) == 0
    for index, frame in enumerate(frames):
        near = [frames[other] for other in range(COUNT) if 0 < abs(other - index) <= smooth]
        assert np.array_equal(result("out", index), average_still(frame, near)) and not np.array_equal(result("out", index), frame)


@pytest.mark.parametrize("options", [("--sequence", "--smooth=0"), ()], ids=["no smoothing", "no sequence"])
def test_frames_are_left_as_they_are(frames, options):
    assert run("in", "out", *options) == 0
    assert all(np.array_equal(result("out", index), frame) for index, frame in enumerate(frames))


def test_a_result_does_not_depend_on_those_that_are_there(frames, tmp_path):
    assert run("in", "out", "--sequence") == 0
    whole = result("out", 3)
    for index in (2, 3, 4):
        (tmp_path / "out" / f"{index}.png").unlink()
    Image.new("RGB", (64, 48), "red").save("out/2.png")  # kept, and not read
    assert run("in", "out", "--sequence") == 0 and np.array_equal(result("out", 3), whole)


def test_amount_blends_with_the_frame_itself(frames):
    assert run("in", "out", "--sequence", "--amount=0") == 0
    assert all(np.array_equal(result("out", index), frame) for index, frame in enumerate(frames))


def test_a_damaged_frame_is_named_and_left_out_of_its_neighbors(frames, tmp_path, capsys):
    cut(tmp_path / "in" / "3.png")
    assert run("in", "out", "--sequence", "--smooth=1") == 1
    assert "in/3.png" in capsys.readouterr().err and not (tmp_path / "out" / "3.png").exists()
    assert np.array_equal(result("out", 2), average_still(frames[2], [frames[1]]))


def cut(path):
    """Cut an image's file in half; its header stays readable."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_a_damaged_reference_frame_is_the_only_one_that_fails(frames, tmp_path, capsys):
    assert 0 in reference_frames(COUNT)
    cut(tmp_path / "in" / "0.png")
    assert run("in", "out", "--sequence") == 1
    assert "restored 6, already there 0, failed 1" in capsys.readouterr().out
    assert not (tmp_path / "out" / "0.png").exists()


@pytest.mark.parametrize(
    ("damaged", "used"),
    [((), [0, 2, 4, 6]), ((0,), [1, 2, 4, 6]), ((0, 1), [2, 4, 6]), ((0, 1, 2, 4), [3, 6]), ((0, 1, 2, 3, 4, 6), [5])],
)
def test_a_damaged_reference_frame_is_replaced_by_the_nearest_readable_one(frames, tmp_path, monkeypatch, damaged, used):
    given = []
    monkeypatch.setattr(shots, "decide_for_shot", lambda restorer, references, settings: given.append(references))
    for index in damaged:
        cut(tmp_path / "in" / f"{index}.png")
    run("in", "out", "--sequence")
    (references,) = given
    assert len(references) == len(used)
    assert all(np.array_equal(reference, frames[index]) for reference, index in zip(references, used))


def test_a_shot_without_a_readable_frame_is_an_error_that_names_it(frames, tmp_path):
    (shot,) = find_shots(plan([tmp_path / "in"], tmp_path / "out"))
    for job in shot:
        cut(job.source)
    restorer = Identity()
    with pytest.raises(UnreadableImageError, match=r"no frame of its shot can be read, from \S+0.png to \S+6.png"):
        Shots(restorer, [shot], restorer.sampling_settings(), smooth=0).decisions(shot[0])


def test_a_negative_number_of_frames_is_refused(frames, capsys):
    assert run("in", "out", "--sequence", "--smooth=-1") == 2
    assert "smooth=-1 is negative; use 0" in capsys.readouterr().err
