"""Which images are found, and where their results go."""

import os
from pathlib import Path

import pytest

from datamodules.images.finding import list_images, plan
from tests.datamodules.images.made_images import encoded


def make(folder, *names, data=None):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded("PNG") if data is None else data)


def targets(*inputs, output, **options):
    return {job.source.as_posix(): job.target.as_posix() for job in plan(map(Path, inputs), Path(output), **options)}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_keeps_names_and_sub_folders(in_a_folder):
    make(in_a_folder, "in/b.jpg", "in/sub/deep.er/a.PNG", "in/no_suffix")
    make(in_a_folder, "in/notes.txt", "in/.hidden.png", "in/._b.jpg", "in/.thumbs/c.png", data=b"text")
    found = targets("in", output="out")
    assert found == {"in/b.jpg": "out/b.png", "in/no_suffix": "out/no_suffix.png", "in/sub/deep.er/a.PNG": "out/sub/deep.er/a.PNG"}


def test_two_of_one_stem_keep_apart(in_a_folder):
    make(in_a_folder, "in/a.jpg", "in/a.tif", "in/a.png")
    assert targets("in", output="out") == {"in/a.jpg": "out/a.jpg.png", "in/a.png": "out/a.png", "in/a.tif": "out/a.tif.png"}


def test_a_suffix_that_is_no_images_is_part_of_the_name(in_a_folder):
    make(in_a_folder, "in/IMG.v2", "in/2024.05.01", "in/b.psd.bak")
    assert targets("in", output="out") == {
        "in/2024.05.01": "out/2024.05.01.png",
        "in/IMG.v2": "out/IMG.v2.png",
        "in/b.psd.bak": "out/b.psd.bak.png",
    }
    make(in_a_folder, "two/IMG.v2", "two/IMG.v2.jpg", "two/IMG.v3")
    assert targets("two", output="out") == {
        "two/IMG.v2": "out/IMG.v2.png",
        "two/IMG.v2.jpg": "out/IMG.v2.jpg.png",
        "two/IMG.v3": "out/IMG.v3.png",
    }
    assert targets("in/IMG.v2", output="out") == {"in/IMG.v2": "out/IMG.v2.png"}


def test_every_kind_of_image_is_counted(in_a_folder):
    make(in_a_folder, "in/a.gif", data=encoded("GIF"))
    make(in_a_folder, "in/b.jp2", data=encoded("JPEG2000"))
    make(in_a_folder, "in/c.psd", "in/d", data=b"8BPS\0\1" + bytes(20))
    make(in_a_folder, "in/e.svg", "in/f.jp2", "in/notes.txt", "in/film.mp4", data=b"text")
    make(in_a_folder, "in/scans.hdr/g.png")
    problems = {job.source.name: job.problem for job in plan([Path("in")], Path("out"))}
    assert [name for name, problem in problems.items() if problem is None] == ["a.gif", "b.jp2", "g.png"]
    assert "Photoshop" in problems["c.psd"] and "Photoshop" in problems["d"]
    assert "vector" in problems["e.svg"] and "begins" in problems["f.jp2"]
    assert len(problems) == 7


def test_formats_that_are_only_read_become_png(in_a_folder):
    make(in_a_folder, "in/a.gif", data=encoded("GIF"))
    make(in_a_folder, "in/b.jp2", data=encoded("JPEG2000"))
    assert targets("in", output="out", same_format=True) == {"in/a.gif": "out/a.png", "in/b.jp2": "out/b.png"}
    with pytest.raises(ValueError, match=r"\.svg cannot be written"):
        targets("in/a.gif", output="a.svg")


def test_several_folders_and_files_go_side_by_side(in_a_folder):
    make(in_a_folder, "one/a.png", "two/a.png", "b.png")
    assert targets("one", "two", "b.png", output="out") == {
        "one/a.png": "out/one/a.png",
        "two/a.png": "out/two/a.png",
        "b.png": "out/b.png",
    }


def test_a_single_file_may_go_to_a_file(in_a_folder):
    make(in_a_folder, "a.png")
    assert targets("a.png", output="b.jpeg") == {"a.png": "b.jpeg"}
    assert targets("a.png", output="folder") == {"a.png": "folder/a.png"}
    with pytest.raises(ValueError, match=r"\.heic cannot be written; name one of \.jpg, \.png"):
        targets("a.png", output="b.heic")


def test_the_same_format_is_that_of_the_bytes(in_a_folder):
    make(in_a_folder, "in/a.jpg")
    make(in_a_folder, "in/b.jpeg", data=encoded("JPEG"))
    assert targets("in", output="out", same_format=True) == {"in/a.jpg": "out/a.png", "in/b.jpeg": "out/b.jpeg"}


def test_the_output_inside_the_input_is_no_input(in_a_folder):
    make(in_a_folder, "in/a.png", "in/restored/a.png")
    assert targets("in", output="in/restored") == {"in/a.png": "in/restored/a.png"}


def test_what_is_no_readable_file_is_named_and_nothing_blocks(in_a_folder):
    make(in_a_folder, "in/a.png", "in/folder.jpg/inside.png", "in/raw.nef")
    os.mkfifo(in_a_folder / "in/pipe.png")
    (in_a_folder / "in/gone.png").symlink_to("nowhere")
    problems = {job.source.name: job.problem for job in plan([Path("in")], Path("out"))}
    assert problems.pop("a.png") is None and set(problems) == {"folder.jpg", "raw.nef", "pipe.png", "gone.png"}
    assert problems["folder.jpg"] == "it is a folder" and "RAW" in problems["raw.nef"]
    assert all("not a regular file" in problems[name] for name in ("pipe.png", "gone.png"))


def test_a_source_is_never_replaced(in_a_folder):
    make(in_a_folder, "in/a.png")
    (in_a_folder / "link").symlink_to("in")
    for output in ("in", "link"):
        with pytest.raises(ValueError, match="would replace"):
            plan([Path("in")], Path(output))
    with pytest.raises(ValueError, match="would replace"):
        plan([Path("in/a.png")], Path("in/a.png"))


def test_two_results_of_one_name_are_refused(in_a_folder):
    make(in_a_folder, "x/one/a.png", "y/one/a.png")
    with pytest.raises(ValueError, match="would both become"):
        plan([Path("x/one"), Path("y/one")], Path("out"))


def test_nothing_to_do_is_told(in_a_folder):
    (in_a_folder / "in").mkdir()
    with pytest.raises(ValueError, match="nothing in there looks like an image"):
        plan([Path("in")], Path("out"))
    with pytest.raises(ValueError, match="gone does not exist"):
        plan([Path("gone")], Path("out"))


def test_images_without_results_are_listed_once_each_with_their_problem(in_a_folder):
    make(in_a_folder, "out/b.png", "in/a.png")
    make(in_a_folder, "in/c.nef", data=b"II*\0rest")
    found = dict(list_images([Path("in"), Path("in/a.png"), Path("out/b.png")]))
    assert list(found) == [Path("in/a.png"), Path("in/c.nef"), Path("out/b.png")]
    assert found[Path("in/a.png")] is found[Path("out/b.png")] is None and "RAW" in found[Path("in/c.nef")]
    Path("empty").mkdir()
    with pytest.raises(ValueError, match="empty: nothing in there looks like an image"):
        list_images([Path("empty")])
