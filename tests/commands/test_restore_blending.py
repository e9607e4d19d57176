"""``mimdit restore --amount`` and ``--mask`` on photographs of all kinds."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.images import read_photo
from mimdit.restorer.blending import blend
from tests.commands.made_restorers import Identity, run, use
from tests.datamodules.images.made_images import deep, encoded, exif, to_png


class Negative(Identity):
    """Returns the negative, so that it is seen where an image was restored."""

    def restore(self, images: torch.Tensor, settings: object = None, **options: object) -> torch.Tensor:
        return 1 - super().restore(images, settings, **options)


@pytest.fixture(autouse=True)
def negative(monkeypatch, tmp_path):
    use(Negative(), monkeypatch, tmp_path)


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def half(height=24, width=40):
    """White on the right half."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return mask


def mixed(original, share):
    """The original and its negative, mixed by the definition of sRGB in double precision."""
    most = np.iinfo(original.dtype).max

    def light(pixels):
        values = pixels.astype(np.float64) / most
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)

    linear = (1 - share) * light(original) + share * light(most - original)
    return most * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("name, data", [("a.png", encoded("PNG", "RGBA")), ("a.jpg", encoded("JPEG", "L")), ("a.tif", deep(".tif", 4))])
def test_the_colors_of_each_depth_are_mixed_and_alpha_stays(tmp_path, name, data):
    put(tmp_path / "in" / name, data)
    source = read_photo(tmp_path / "in" / name)
    for amount in (0, 0.3, 1):
        assert run("in", f"out{amount}", "--amount", amount) == 0
        result = read_photo(tmp_path / f"out{amount}" / "a.png")
        assert result.pixels.dtype == source.pixels.dtype and result.pixels.shape == source.pixels.shape
        assert np.abs(result.pixels - mixed(source.pixels, amount)).max() <= 0.51
        assert (result.alpha is None) if source.alpha is None else np.array_equal(result.alpha, source.alpha)
    assert np.array_equal(read_photo(tmp_path / "out0" / "a.png").pixels, source.pixels)


@pytest.mark.parametrize("kind", ["L", "1", "RGB", "P", "I;16", "LA", "transparent"])
def test_a_mask_of_any_mode_restores_its_white_only(tmp_path, kind):
    put(tmp_path / "a.png", encoded("PNG"))
    white = Image.fromarray(half())
    made = {
        "I;16": Image.fromarray(half().astype(np.uint16) * 257),
        "LA": Image.merge("LA", [white, Image.new("L", white.size, 255)]),
        "transparent": Image.merge("LA", [Image.new("L", white.size, 255), white]),
    }
    made.get(kind, white if kind not in ("1", "RGB", "P") else white.convert(kind)).save("mask.png")
    assert run("a.png", "out", "--mask", "mask.png", "--feather", 3) == 0
    source, result = (read_photo(tmp_path / name).pixels for name in ("a.png", "out/a.png"))
    assert np.array_equal(result[:, :20], source[:, :20]) and np.array_equal(result[:, 23:], 255 - source[:, 23:])
    for column, share in ((20, 0.25), (21, 0.5), (22, 0.75)):
        assert np.abs(result[:, column] - mixed(source[:, column], share)).max() <= 0.51


def test_a_mask_has_the_size_of_the_upright_image(tmp_path, capsys):
    put(tmp_path / "a.jpg", encoded("JPEG", exif=exif(6).tobytes()))
    Image.fromarray(half(40, 24)).save("upright.png")
    Image.fromarray(half(24, 40)).save("lying.png")
    assert run("a.jpg", "out", "--mask", "upright.png", "--feather", 0) == 0
    source, result = (read_photo(tmp_path / name).pixels for name in ("a.jpg", "out/a.png"))
    assert np.array_equal(result, np.concatenate([source[:, :12], 255 - source[:, 12:]], axis=1))
    assert run("a.jpg", "other", "--mask", "lying.png") == 1 and not list(tmp_path.glob("other/*"))
    assert "40x24 pixels, the image 24x40" in " ".join(capsys.readouterr().err.split())


def test_a_damaged_mask_is_named_as_the_mask(tmp_path, capsys):
    put(tmp_path / "in" / "a.png", encoded("PNG"))
    put(tmp_path / "masks" / "a.png", to_png(half()[..., None])[:-20])
    assert run("in", "out", "--mask", "masks") == 1
    assert "in/a.png: its mask masks/a.png cannot be read: its PNG data is damaged" in " ".join(capsys.readouterr().err.split())
    assert run("in", "out", "--mask", "masks/a.png") == 2  # once, not for each photograph
    assert "mask=masks/a.png cannot be read: its PNG data is damaged" in " ".join(capsys.readouterr().err.split())


def test_a_mask_is_turned_upright(tmp_path):
    put(tmp_path / "a.png", encoded("PNG"))
    Image.fromarray(half()).save("turned.png", exif=exif(3))  # upside down: white is on the left
    assert run("a.png", "out", "--mask", "turned.png", "--feather", 0) == 0
    source, result = (read_photo(tmp_path / name).pixels for name in ("a.png", "out/a.png"))
    assert np.array_equal(result, np.concatenate([255 - source[:, :20], source[:, 20:]], axis=1))


def test_the_tag_tells_what_was_blended(tmp_path):
    put(tmp_path / "a.png", encoded("PNG"))
    Image.fromarray(half()).save("mask.png")
    assert run("a.png", "out", "--tag", "--amount", 0.5, "--mask", "mask.png") == 0
    packet = read_photo(tmp_path / "out/a.png").xmp.decode()
    told = json.loads(packet[packet.index("{") : packet.rindex("}") + 1].replace("&quot;", '"'))
    assert told["amount"] == 0.5 and told["mask"] == "mask.png" and told["feather"] == 8 and told["sequence"] is False


def test_amount_mixes_the_result_with_the_original_in_linear_light(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    put(tmp_path / "in" / "a.png", to_png(pixels))
    for amount, expected in ((0, pixels), (0.3, blend(255 - pixels, pixels, amount=0.3)), (1, 255 - pixels)):
        assert run("in", f"out{amount}", f"--amount={amount}") == 0
        assert np.array_equal(Image.open(tmp_path / f"out{amount}" / "a.png"), expected)


def test_a_mask_says_where_an_image_is_restored_and_each_image_has_its_own(tmp_path, capsys):
    images = {name: np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8) for seed, name in enumerate("abcd")}
    for name, pixels in images.items():
        put(tmp_path / "in" / f"{name}.png", to_png(pixels))
    masks = {"a": np.zeros((8, 12), np.uint8), "b": np.full((8, 12), 255, np.uint8), "d": np.zeros((8, 11), np.uint8)}
    masks["a"][:, 6:] = 255
    (tmp_path / "masks").mkdir()
    for name, mask in masks.items():
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    assert run("in", "out", "--mask=masks", "--feather=2") == 1
    told = capsys.readouterr().err
    assert "in/c.png: one mask named c" in told and "d.png has 11x8 pixels, the image 12x8" in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    half = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert np.array_equal(half[:, :6], images["a"][:, :6]) and np.array_equal(half[:, 8:], 255 - images["a"][:, 8:])
    assert np.array_equal(half[:, 6], blend(255 - images["a"], images["a"], amount=1 / 3)[:, 6])
    assert np.array_equal(Image.open(tmp_path / "out" / "b.png"), 255 - images["b"])
    assert run("in/a.png", "one.png", "--mask=masks/a.png", "--feather=2") == 0
    assert np.array_equal(Image.open(tmp_path / "one.png"), half)
