"""The picture for people."""

from PIL import Image

from callbacks import Showcase
from callbacks.showcase import readable_group
from tests.callbacks.dummy import DummyRestorer, loader, trainer


def test_the_test_ends_with_one_whole_picture(tmp_path):
    path = tmp_path / "show" / "restored.png"
    trainer(tmp_path, Showcase(str(path), max_images=4, side=32)).test(DummyRestorer(), loader(), verbose=False)
    assert [file.name for file in path.parent.iterdir()] == ["restored.png"]
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 2 * 3 * 32 and picture.height > 2 * 32


def test_only_the_groups_asked_for_are_shown(tmp_path):
    sizes = []
    for groups in (["05Noise"], None):
        trainer(tmp_path, Showcase(max_images=3, groups=groups, side=32, per_line=1)).test(DummyRestorer(), loader(3), verbose=False)
        with Image.open(tmp_path / "restored.png") as picture:
            sizes.append(picture.height)
    assert sizes[1] > 2.5 * sizes[0]


def test_readable_names():
    assert readable_group("09Lowlight_Haze") == "Lowlight + Haze"
