"""Archives from strangers: nothing is unpacked, and no member's name leads anywhere."""

import stat
import zipfile

import pytest

from datamodules.conversion.images import BadImageError, inspect_image
from datamodules.sources.listing import list_pairs
from datamodules.sources.members import MemberReader
from tests.datamodules.made_shards import encode, made_image


def test_names_that_lead_out_make_no_pair(tmp_path):
    image = encode(made_image("a"))
    with zipfile.ZipFile(tmp_path / "08Haze.zip", "w") as archive:
        for name in ("1", "../2", "/3", "a/../../4", "../../../etc/5"):
            for side in ("GT", "LQ"):
                archive.writestr(f"{side}/{name}.png", image)
                archive.writestr(f"/{side}/{name}.png", image) if name == "3" else None
        archive.writestr("../GT/6.png", image)
        archive.writestr("../LQ/6.png", image)
    listing = list_pairs(tmp_path)
    assert [pair.stem for pair in listing.pairs] == ["1"] and not listing.rejects


def test_a_link_is_its_text_and_no_image(tmp_path):
    with zipfile.ZipFile(tmp_path / "08Haze.zip", "w") as archive:
        archive.writestr("GT/1.png", encode(made_image("a")))
        link = zipfile.ZipInfo("LQ/1.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(tmp_path / "secret.png"))
    (tmp_path / "secret.png").write_bytes(encode(made_image("secret")))
    listing = list_pairs(tmp_path)
    with MemberReader(listing.root, listing.files) as reader:
        content = reader.read(listing.pairs[0].lq)
    assert content == str(tmp_path / "secret.png").encode()
    with pytest.raises(BadImageError):
        inspect_image(content, "decode")


@pytest.mark.parametrize(
    "line", ["/etc/GT/1.png, /etc/LQ/1.png", "../08Haze/GT/1.png, ../08Haze/LQ/1.png", "pipe:touch ran, pipe:touch ran"]
)
def test_a_list_names_nothing_outside_and_runs_nothing(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text(line + "\n")
    with pytest.raises(ValueError, match="line 1"):
        list_pairs(tmp_path / "list.txt")
    assert not (tmp_path / "ran").exists()
