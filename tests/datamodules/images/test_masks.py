"""Masks of images."""

from pathlib import Path

import pytest
from PIL import Image

from datamodules.images import UnreadableImageError, find_mask


def test_a_file_is_the_mask_of_every_image(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "mask.png")
    assert find_mask(tmp_path / "mask.png", Path("sub/any")) == tmp_path / "mask.png"


def test_a_folders_mask_has_the_images_place_and_any_images_suffix(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("sub/a.png", "sub/a.b.jpg", "a.tif", "sub/a.txt"):
        (tmp_path / name).write_bytes(b"")
    assert find_mask(tmp_path, Path("sub/a")) == tmp_path / "sub" / "a.png"
    assert find_mask(tmp_path, Path("sub/a.b")) == tmp_path / "sub" / "a.b.jpg"
    assert find_mask(tmp_path, Path("a")) == tmp_path / "a.tif"


def test_no_mask_and_two_masks_are_named(tmp_path):
    for name in ("b.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    for place, words in (("c", "found none"), ("b", "found b.jpg, b.png"), ("no/folder", "found none")):
        with pytest.raises(UnreadableImageError, match=words):
            find_mask(tmp_path, Path(place))
