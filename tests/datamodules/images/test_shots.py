"""Shots in folders of frames."""

import pytest
from PIL import Image

from datamodules.images import find_shots
from datamodules.images.finding import plan
from tests.datamodules.images.made_images import exif


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


def test_a_superscript_is_a_letter_and_not_a_number(tmp_path):
    frames(tmp_path / "in", "²1.png", "²10.png", "²2.png")
    (shot,) = find_shots(plan([tmp_path / "in"], tmp_path / "out"))
    assert [job.source.name for job in shot] == ["²1.png", "²2.png", "²10.png"]


def test_frames_of_two_sizes_and_frames_that_cannot_be_read_are_named(tmp_path):
    frames(tmp_path / "in", "1.png", "2.png")
    frames(tmp_path / "in", "3.png", size=(6, 5))
    with pytest.raises(ValueError, match=r"3.png has 6x5 pixels and 1.png 6x4: they are not frames of one shot; put each shot into"):
        find_shots(plan([tmp_path / "in"], tmp_path / "out"))
    (tmp_path / "in" / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"3.png: .* a sequence needs all of its frames"):
        find_shots(plan([tmp_path / "in"], tmp_path / "out"))


def turned(folder, name, size, orientation):
    """Write an image of ``size`` that is shown as ``orientation`` tells."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", size).save(folder / name, exif=exif(orientation).tobytes())


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_frames_of_one_upright_size_are_a_shot_however_they_are_stored(tmp_path, suffix):
    turned(tmp_path / "in", f"0.{suffix}", (40, 50), 1)
    turned(tmp_path / "in", f"1.{suffix}", (50, 40), 6)
    (shot,) = find_shots(plan([tmp_path / "in"], tmp_path / "out"))
    assert len(shot) == 2


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_frames_stored_alike_that_are_turned_apart_are_refused(tmp_path, suffix):
    turned(tmp_path / "in", f"0.{suffix}", (50, 40), 1)
    turned(tmp_path / "in", f"1.{suffix}", (50, 40), 6)
    with pytest.raises(ValueError, match=rf"1.{suffix} has 40x50 pixels and 0.{suffix} 50x40: they are not frames of one shot"):
        find_shots(plan([tmp_path / "in"], tmp_path / "out"))


def test_a_frame_whose_header_is_cut_is_named(tmp_path):
    frames(tmp_path / "in", "1.png", "2.png")
    (tmp_path / "in" / "2.png").write_bytes((tmp_path / "in" / "2.png").read_bytes()[:20])
    with pytest.raises(ValueError, match=r"2.png: .* a sequence needs all of its frames"):
        find_shots(plan([tmp_path / "in"], tmp_path / "out"))
