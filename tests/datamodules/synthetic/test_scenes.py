"""Made scenes are seeded, varied and of the promised form."""

import subprocess
import sys
import zlib

import numpy as np
import pytest

from datamodules.synthetic.scenes import LeafStyle, make_scene, paint_labels


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(64, seed=seed) for seed in range(150)]


@pytest.mark.parametrize("size", [16, 57, 128])
def test_is_uint8_rgb_of_the_size(size):
    scene = make_scene(size, seed=1)
    assert scene.shape == (size, size, 3) and scene.dtype == np.uint8


def test_another_process_makes_the_same_bytes():
    program = (
        "import zlib; from datamodules.synthetic.scenes import make_scene; "
        "print([zlib.crc32(make_scene(48, seed=s).tobytes()) for s in range(5)])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == str([zlib.crc32(make_scene(48, seed=seed).tobytes()) for seed in range(5)])


def test_seeds_make_different_scenes(scenes):
    assert len({scene.tobytes() for scene in scenes}) == len(scenes)


def test_tones_span_dark_to_bright_and_grey_to_vivid(scenes):
    means = np.array([scene.mean() / 255.0 for scene in scenes])
    assert (means < 0.2).mean() > 0.08 and (means > 0.55).mean() > 0.08 and 0.3 < np.median(means) < 0.5
    colourfulness = np.array([np.ptp(scene.astype(float), axis=2).mean() / 255.0 for scene in scenes])
    assert (colourfulness < 0.005).mean() > 0.02 and (colourfulness > 0.2).mean() > 0.1


def test_no_scene_is_flat(scenes):
    assert min(scene.std() for scene in scenes) > 2.0


def test_radii_follow_the_scale_invariant_law():
    # The median of density r^-3 between a and b: half of the mass a^-2 .. b^-2.
    style = LeafStyle(4000, 0.02, 0.5, 0.0, 0.0, 1.0, 0.0)
    radii = paint_labels(100, style, np.random.default_rng(0))[2][1:]
    assert np.median(radii) == pytest.approx((0.5 * (2.0**-2 + 50.0**-2)) ** -0.5, rel=0.03)


def test_later_leaves_cover_earlier_ones():
    labels = paint_labels(128, LeafStyle(300, 0.05, 0.5, 0.0, 0.0, 1.0, 0.0), np.random.default_rng(3))[0]
    assert labels.max() == 300 and (labels > 150).mean() > 2.0 * ((labels > 0) & (labels <= 150)).mean()


def test_too_small_a_size_is_refused():
    with pytest.raises(ValueError, match="at least 16 pixels, not 8"):
        make_scene(8, seed=0)
