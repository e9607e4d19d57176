"""``mimdit restore --amount`` and ``--mask``."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.images import read_photo
from mimdit import cli
from mimdit.commands import restore as command
from mimdit.restorer.blending import blend, feathered
from tests.commands.made_restorers import Identity
from tests.datamodules.images.made_images import deep, encoded, exif


class Negative(Identity):
    """Returns the negative, so that it is seen where an image was restored."""

    def restore(self, images: torch.Tensor, settings: object = None, **options: object) -> torch.Tensor:
        return 1 - super().restore(images, settings, **options)


@pytest.fixture(autouse=True)
def negative(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    made = Negative()
    made.to = lambda device: made
    monkeypatch.setattr(command, "load_restorer", lambda checkpoint: made)


def run(*args):
    """The exit code."""
    try:
        cli.main(["restore", *map(str, args)])
    except SystemExit as left:
        return left.code
    return 0


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def half(height=24, width=40):
    """White on the right half."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return mask


def test_amount_blends_in_linear_light_and_zero_and_one_are_exact(tmp_path):
    put(tmp_path / "in/a.png", encoded("PNG", "RGBA"))
    put(tmp_path / "in/b.tif", deep(".tif", 4))
    for amount in (0, 0.3, 1):
        assert run("in", f"out{amount}", "--amount", amount) == 0
    for name in ("a.png", "b.tif"):
        source = read_photo(tmp_path / "in" / name)
        for amount in (0, 0.3, 1):
            result = read_photo((tmp_path / f"out{amount}" / name).with_suffix(".png"))
            expected = blend(source.pixels, np.iinfo(source.pixels.dtype).max - source.pixels, amount)
            assert result.pixels.dtype == source.pixels.dtype and np.array_equal(result.pixels, expected)
            assert np.array_equal(result.alpha, source.alpha)
        assert np.array_equal(read_photo((tmp_path / "out0" / name).with_suffix(".png")).pixels, source.pixels)


@pytest.mark.parametrize("kind", ["L", "1", "RGB", "I;16", "LA"])
def test_a_mask_of_any_mode_restores_its_white_only(tmp_path, kind):
    put(tmp_path / "a.png", encoded("PNG"))
    white = Image.fromarray(half())
    made = Image.fromarray(half().astype(np.uint16) * 257) if kind == "I;16" else white.convert(kind)
    if kind == "LA":
        made = Image.merge("LA", [Image.new("L", white.size, 255), white])
    made.save("mask.png")
    assert run("a.png", "out", "--mask", "mask.png", "--feather", 3) == 0
    source, result = (read_photo(tmp_path / name).pixels for name in ("a.png", "out/a.png"))
    assert np.array_equal(result, blend(source, 255 - source, 1, feathered(half(), (24, 40), 3)))
    assert np.array_equal(result[:, :20], source[:, :20]) and np.array_equal(result[:, 24:], 255 - source[:, 24:])


def test_a_mask_has_the_size_of_the_upright_image(tmp_path, capsys):
    put(tmp_path / "a.jpg", encoded("JPEG", exif=exif(6).tobytes()))
    Image.fromarray(half(40, 24)).save("upright.png")
    Image.fromarray(half(24, 40)).save("lying.png")
    Image.fromarray(half(24, 41)).save("other.png")
    assert run("a.jpg", "out", "--mask", "upright.png", "--feather", 0) == 0
    source, result = (read_photo(tmp_path / name).pixels for name in ("a.jpg", "out/a.png"))
    assert np.array_equal(result, np.concatenate([source[:, :12], 255 - source[:, 12:]], axis=1))
    for name, words in (("lying.png", "the mask is 40x24 pixels and the image, upright, 24x40"), ("other.png", "mask other.png is 41x24")):
        assert run("a.jpg", "out", "--mask", name, "--overwrite") == 2
        assert words in " ".join(capsys.readouterr().err.split())


def test_masks_in_a_folder_are_paired_by_name(tmp_path, capsys):
    for name in ("a.png", "sub/b.png", "c.png", "c.jpg"):
        put(tmp_path / "in" / name, encoded("JPEG" if name.endswith("jpg") else "PNG"))
    (tmp_path / "masks/sub").mkdir(parents=True)
    masks = {"a.tif": half(), "sub/b.png": 255 - half(), "c.png": half() * 0, "c.jpg.png": half() * 0 + 255}
    for name, mask in masks.items():
        Image.fromarray(mask).save(tmp_path / "masks" / name)
    assert run("in", "out", "--mask", "masks", "--feather", 0) == 0
    for name, result, mask in zip(("a.png", "sub/b.png", "c.png", "c.jpg"), ("a.png", "sub/b.png", "c.png", "c.jpg.png"), masks.values()):
        source = read_photo(tmp_path / "in" / name).pixels
        assert np.array_equal(read_photo(tmp_path / "out" / result).pixels, np.where(mask[:, :, None] > 0, 255 - source, source))
    (tmp_path / "masks/sub/b.png").unlink()
    assert run("in", "again", "--mask", "masks") == 2 and "masks has no mask for in/sub/b.png" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "again").exists()


def test_one_file_to_one_file_takes_its_mask_from_a_folder(tmp_path):
    put(tmp_path / "a.png", encoded("PNG"))
    (tmp_path / "masks").mkdir()
    Image.fromarray(half() * 0).save("masks/result.png")
    assert run("a.png", "result.png", "--mask", "masks") == 0
    assert np.array_equal(read_photo(tmp_path / "result.png").pixels, read_photo(tmp_path / "a.png").pixels)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--amount", 1.5], "amount=1.5 is out of range"),
        (["--feather", -1], "feather=-1.0 must be"),
        (["--mask", "missing.png"], "missing.png does not exist"),
        (["--mask", "broken.png"], "mask broken.png: "),
    ],
)
def test_mistakes_are_named_before_anything_is_restored(tmp_path, capsys, options, words):
    put(tmp_path / "a.png", encoded("PNG"))
    put(tmp_path / "broken.png", b"no image")
    assert run("a.png", "out", *options) == 2 and words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_the_tag_tells_amount_and_mask(tmp_path):
    put(tmp_path / "a.png", encoded("PNG"))
    Image.fromarray(half()).save("mask.png")
    assert run("a.png", "out", "--tag", "--amount", 0.5, "--mask", "mask.png") == 0
    packet = read_photo(tmp_path / "out/a.png").xmp.decode()
    told = json.loads(packet[packet.index("{") : packet.rindex("}") + 1].replace("&quot;", '"'))
    assert told["amount"] == 0.5 and told["mask"] == "mask.png" and told["feather"] is None and told["sequence"] is False
