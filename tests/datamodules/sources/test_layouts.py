"""Lines "GT, LQ": which are pairs, which are rejected, and which make the whole list suspect."""

import pytest

from datamodules.sources.listing import list_pairs
from datamodules.sources.members import MemberReader
from tests.datamodules.made_sources import write_files

LINE = "08Haze/GT/1.png, 08Haze/LQ/1.jpg"


def contents(listing):
    with MemberReader(listing.root) as reader:
        return {(pair.group, pair.stem): (reader.read(pair.lq), reader.read(pair.gt)) for pair in listing.pairs}


@pytest.mark.parametrize(
    "line, reason",
    [
        (LINE, "line 2: line 1 has this stem already"),
        ("08Haze/GT/2.png,08Haze/LQ/2.png", "line 2: 08Haze/LQ/2.png is missing"),
        ("08Haze/GT/3.png, 08Haze/LQ/3.png", "line 2: 08Haze/LQ/3.png and 08Haze/GT/3.png is missing"),
        ("08Haze/GT/2.png, 01Blur/LQ/1.jpg", "line 2: its LQ image is in another group, 01Blur"),
    ],
)
def test_a_line_that_gives_no_pair_is_rejected(tmp_path, line, reason):
    write_files(tmp_path, {"08Haze/GT/1.png": b"t", "08Haze/LQ/1.jpg": b"d", "08Haze/GT/2.png": b"t", "01Blur/LQ/1.jpg": b"d"})
    (tmp_path / "list.txt").write_text(f"{LINE}\r\n{line}\n\n", newline="")
    listing = list_pairs(tmp_path / "list.txt")
    assert contents(listing) == {("08Haze", "1"): (b"d", b"t")}
    assert [reject.reason for reject in listing.rejects] == [reason]


@pytest.mark.parametrize(
    "line, message",
    [
        ("08Haze/GT/1.png", "two paths below the root"),
        ("08Haze/GT/1.png 08Haze/LQ/1.png", "two paths below the root"),
        ("08Haze/GT/1.png, 08Haze/LQ/1.png, 3", "two paths below the root"),
        ("/data/08Haze/GT/1.png, 08Haze/LQ/1.png", "two paths below the root"),
        ("08Haze/GT/1.png, ../08Haze/LQ/1.png", "two paths below the root"),
        ("08Haze/LQ/1.png, 08Haze/GT/1.png", r"the ground truth \(GT\) comes first"),
        ("fog/GT/1.png, fog/LQ/1.png", "no folder of fog/GT/1.png is named as a group"),
    ],
)
def test_a_line_of_another_form_is_refused(tmp_path, line, message):
    (tmp_path / "list.txt").write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match=rf"list\.txt, line 2.*{message}"):
        list_pairs(tmp_path / "list.txt")


def test_a_list_may_pair_files_of_other_names(tmp_path):
    write_files(tmp_path, {"set/08Haze/clear/1.png": b"t", "set/08Haze/hazy/1_0.8.png": b"d"})
    (tmp_path / "list.txt").write_text("set/08Haze/clear/1.png,set/08Haze/hazy/1_0.8.png\n", encoding="utf-8-sig")
    assert contents(list_pairs(tmp_path / "list.txt")) == {("08Haze", "clear/1"): (b"d", b"t")}
