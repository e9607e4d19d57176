"""Shots in folders of frames."""

import pytest
from PIL import Image

from datamodules.images import find_shots
from datamodules.images.finding import plan


def frames(folder, *names, size=(6, 4)):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", size).save(folder / name)


def test_each_folder_is_a_shot_in_the_order_of_its_numbers(tmp_path):
    frames(tmp_path / "in" / "a", "f10.png", "f2.png", "F1.png")
    frames(tmp_path / "in" / "b", "0002-1.png", "0002.png", "0001.png", size=(5, 5))
    found = find_shots(plan([tmp_path / "in"], tmp_path / "out"))
    names = [[job.source.name for job in shot] for shot in found]
    assert names == [["F1.png", "f2.png", "f10.png"], ["0001.png", "0002-1.png", "0002.png"]]


def test_frames_of_two_sizes_and_frames_that_cannot_be_read_are_named(tmp_path):
    frames(tmp_path / "in", "1.png", "2.png")
    frames(tmp_path / "in", "3.png", size=(6, 5))
    with pytest.raises(ValueError, match=r"3.png has 6x5 pixels and 1.png 6x4: they are not frames of one shot; put each shot into"):
        find_shots(plan([tmp_path / "in"], tmp_path / "out"))
    (tmp_path / "in" / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"3.png: .* a sequence needs all of its frames"):
        find_shots(plan([tmp_path / "in"], tmp_path / "out"))
