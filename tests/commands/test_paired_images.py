"""Pairs of two runs' images: by name, or an error that names what does not fit."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from mimdit.commands.paired_images import digests, pair_images, read_displayed
from tests.commands.made_pairs import write_images


def test_images_pair_by_name_across_formats_and_charts_of_gates_are_none(tmp_path):
    zebra, quagga, given = write_images(tmp_path, ["08Haze/1", "2"])
    Image.open(quagga / "2.png").save(quagga / "2.webp", lossless=True)
    (quagga / "2.png").unlink()
    Image.open(given / "2.png").save(given / "unrestored.jpg")
    (zebra / "2.gates.png").write_bytes((zebra / "2.png").read_bytes())
    pairs = pair_images(zebra, quagga, given)
    found = [(pair.name, pair.b.name, pair.degraded.parent.name) for pair in pairs]
    assert found == [("08Haze/1", "1.png", "08Haze"), ("2", "2.webp", "input")]
    assert pair_images(zebra, quagga)[0].degraded is None
    assert digests(pairs)[0] != digests(pairs)[1]


def test_photographs_that_share_a_stem_pair_with_their_results(tmp_path):
    zebra, quagga = write_images(tmp_path, ["a.jpg", "a.tif"], folders=("zebra", "quagga"))  # a.jpg.png and a.tif.png
    (given,) = write_images(tmp_path, ["a"], folders=("input",))
    for suffix in ("jpg", "tif"):
        Image.open(given / "a.png").save(given / f"a.{suffix}")
    (given / "a.png").unlink()
    assert [pair.degraded.name for pair in pair_images(zebra, quagga, given)] == ["a.jpg", "a.tif"]


def test_names_in_only_one_folder_are_named(tmp_path):
    zebra, quagga, given = write_images(tmp_path, ["x", "rain/y", "z"])
    (zebra / "z.png").unlink()
    (quagga / "rain/y.png").unlink()
    with pytest.raises(ValueError, match=f"only in {zebra}: rain/y; only in {quagga}: z; restore the same"):
        pair_images(zebra, quagga)
    (given / "x.png").unlink()
    with pytest.raises(ValueError, match="input has no degraded image for x; give"):
        pair_images(zebra, zebra, given)
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        pair_images(zebra, tmp_path / "nowhere")


def test_all_unreadable_images_and_other_sizes_are_named_at_once(tmp_path):
    zebra, quagga, given = write_images(tmp_path, ["a", "b", "c"])
    (zebra / "a.png").write_bytes((zebra / "a.png").read_bytes()[:-400])
    Image.open(quagga / "b.png").resize((10, 10)).save(quagga / "b.png")
    Image.open(given / "c.png").resize((5, 6)).save(given / "c.png")
    with pytest.raises(ValueError) as caught:
        digests(pair_images(zebra, quagga, given))
    message = str(caught.value)
    assert "zebra/a.png: " in message and "zebra/b.png has 32x24 pixels" in message and "quagga/b.png has 10x10" in message
    assert "input/c.png has 5x6" in message and "quagga/a.png" not in message


def test_digests_are_of_pixels_not_of_files(tmp_path):
    zebra, quagga = write_images(tmp_path, ["a"], folders=("zebra", "quagga"))
    before = digests(pair_images(zebra, quagga))
    Image.open(zebra / "a.png").save(zebra / "a.png", compress_level=0)
    assert digests(pair_images(zebra, quagga)) == before
    changed = np.asarray(Image.open(zebra / "a.png")) + np.uint8(1)
    Image.fromarray(changed).save(zebra / "a.png")
    assert digests(pair_images(zebra, quagga))[0] != before[0] and digests(pair_images(zebra, quagga))[1] == before[1]


def test_what_is_displayed_is_srgb_of_8_bits_without_metadata(tmp_path):
    (zebra,) = write_images(tmp_path, ["a"], folders=("zebra",))
    original = Image.open(zebra / "a.png")
    text = PngInfo()
    text.add_text("checkpoint", "runs/zebra")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    original.save(zebra / "tagged.png", pnginfo=text, icc_profile=profile)
    shown = read_displayed(zebra / "tagged.png")
    assert shown.info == {} and np.abs(np.asarray(shown).astype(int) - np.asarray(original)).max() <= 1
    out = io.BytesIO()
    shown.save(out, format="PNG")
    assert b"zebra" not in out.getvalue() and b"iCCP" not in out.getvalue()
    Image.fromarray(np.full((4, 5), 257 * 90, np.uint16)).save(zebra / "deep.png")
    assert read_displayed(zebra / "deep.png").getpixel((0, 0)) == (90, 90, 90)
    original.save(zebra / "broken.png", icc_profile=b"no profile")
    with pytest.raises(ValueError, match="its color profile cannot be used"):
        read_displayed(zebra / "broken.png")
