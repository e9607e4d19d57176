"""Pictures of a few samples: on TensorBoard after validations, in a file after a test."""

import io

import numpy as np
import pytest
from PIL import Image

from callbacks import ImageGrid, Showcase
from tests.callbacks.dummy import DummyRestorer, events, loader, samples, trainer


def test_one_image_per_group_after_every_second_validation(tmp_path):
    run = trainer(tmp_path, ImageGrid(every_n_validations=2, max_images=3, side=16), max_steps=6, val_check_interval=2)
    run.fit(DummyRestorer(), loader(), loader())
    log = events(tmp_path)
    assert log.Tags()["images"] == ["images/00Clean", "images/05Noise", "images/09Lowlight_Haze"]
    assert [image.step for image in log.Images("images/05Noise")] == [2, 6]


def test_input_output_and_truth_are_in_the_picture(tmp_path):
    trainer(tmp_path, ImageGrid(max_images=3, side=16), max_steps=2, val_check_interval=2).fit(DummyRestorer(0.0), loader(), loader())
    event = events(tmp_path).Images("images/05Noise")[0]
    picture = np.asarray(Image.open(io.BytesIO(event.encoded_image_string))).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(picture, (16, 16, 3))[:, :, 0]

    def times_shown(image) -> int:
        expected = np.rint(image.numpy() * 255).transpose(1, 2, 0).astype(int)
        return int((windows == expected).all(axis=(-3, -2, -1)).sum())

    # With weight 0 the output is the input: it is there twice, the truth once, of one and the same sample.
    assert sorted((times_shown(s["lq"]), times_shown(s["gt"])) for s in samples() if s["group"] == "05Noise") == [(0, 0)] * 3 + [(2, 1)]


def test_without_tensorboard_nothing_happens(tmp_path):
    run = trainer(tmp_path, ImageGrid(), tensorboard=False, max_steps=2)
    run.fit(DummyRestorer(), loader(), loader())
    assert run.global_step == 2
    assert not [*tmp_path.rglob("events.out.tfevents*"), *tmp_path.rglob("*.png")]


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


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (ImageGrid, {"every_n_validations": 0}, "^every_n_validations=0 of ImageGrid must be at least 1"),
        (ImageGrid, {"side": 8}, "^side=8 of ImageGrid must be at least 16 pixels"),
        (Showcase, {"side": 8}, "^side=8 of Showcase must be at least 16 pixels"),
        (Showcase, {"per_line": 0}, "^per_line=0 of Showcase must be at least 1"),
    ],
)
def test_a_wrong_argument_is_named_alone(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
