"""Average of still pixels over frames: still scenes against the closed form, moving ones against the frames themselves."""

import numpy as np
import pytest

from datamodules.synthetic.photographs import TEST, photograph_crop
from mimdit.restorer.temporal import average_still, noise_level


def noisy(scene, sigma, seed, dtype=np.uint8):
    noise = np.random.default_rng(seed).normal(0, sigma, scene.shape)
    return np.clip(scene + noise, 0, np.iinfo(dtype).max).round().astype(dtype)


def error(image, truth):
    return np.sqrt(np.square(image.astype(float) - truth).mean())


def gray(height=96, width=128):
    """A slope from dark to light gray."""
    return np.broadcast_to(np.linspace(60, 190, width)[None, :, None], (height, width, 3)).copy()


@pytest.mark.parametrize("sigma", [2, 5, 10, 20])
def test_noise_is_measured_on_a_slope_and_not_raised_by_texture(sigma):
    scene = gray()
    scene[:48] += 30 * np.random.default_rng(1).standard_normal((48, 128, 1))
    assert noise_level(noisy(scene, sigma, 0)) * 255 == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize(("dtype", "unit"), [(np.uint8, 1), (np.uint16, 257)])
@pytest.mark.parametrize("neighbors", [1, 2, 4])
def test_a_still_scene_keeps_the_noise_of_the_mean(neighbors, dtype, unit):
    scene, sigma = gray() * unit, 8 * unit
    frames = [noisy(scene, sigma, seed, dtype) for seed in range(neighbors + 1)]
    averaged = average_still(frames[0], frames[1:])
    assert averaged.dtype == dtype
    assert error(averaged, scene) == pytest.approx(sigma / np.sqrt(neighbors + 1), rel=0.03)


def test_gray_and_rows_of_several_strips_are_averaged_alike():
    scene = gray(600, 64)[..., :1]
    frames = [noisy(scene, 8, seed) for seed in range(3)]
    averaged = average_still(frames[0], frames[1:])
    assert averaged.shape == scene.shape and error(averaged, scene) == pytest.approx(8 / np.sqrt(3), rel=0.03)
    rows = slice(250, 262)  # across the border of two strips
    assert error(averaged[rows], scene[rows]) == pytest.approx(8 / np.sqrt(3), rel=0.1)


def test_a_moving_square_leaves_no_ghost():
    frames = []
    for index in range(5):
        scene = gray()
        scene[30:50, 10 + 20 * index : 30 + 20 * index] += 40
        frames.append(noisy(scene, 5, index))
    averaged = average_still(frames[2], [frames[index] for index in (0, 1, 3, 4)])
    truth = gray()
    truth[30:50, 50:70] += 40
    for column in range(10, 110, 20):  # every place that the square has in one of the frames
        assert abs((averaged[30:50, column : column + 20] - truth[30:50, column : column + 20]).mean()) < 0.5
    assert error(averaged[60:], truth[60:]) < 2.5  # still


def test_a_thin_line_and_a_dot_that_move_leave_no_ghost():
    frames = []
    for index in range(3):
        scene = gray()
        scene[:, 30 + 10 * index] += 50
        scene[70, 90 + 5 * index] = 255
        frames.append(noisy(scene, 4, index))
    averaged = average_still(frames[1], [frames[0], frames[2]])
    assert abs(averaged[:, 40].mean() - (gray()[:, 40] + 50).mean()) < 1
    assert abs(averaged[:, 30].mean() - gray()[:, 30].mean()) < 1
    assert averaged[70, 95].min() > 240 and averaged[70, 90].max() < 190


@pytest.mark.parametrize("shift", [1, 3])
@pytest.mark.parametrize("sigma", [5, 15])
@pytest.mark.parametrize("name", TEST)
def test_no_part_of_a_panned_photograph_becomes_worse(name, sigma, shift):
    photograph = photograph_crop(name, 160).astype(float)
    frames = [noisy(photograph[:128, 10 + shift * index : 138 + shift * index], sigma, index) for index in range(5)]
    truth = photograph[:128, 10 + 2 * shift : 138 + 2 * shift]
    averaged = average_still(frames[2], [frames[index] for index in (0, 1, 3, 4)])
    for rows in range(0, 128, 32):
        for columns in range(0, 128, 32):
            part = np.s_[rows : rows + 32, columns : columns + 32]
            assert error(averaged[part], truth[part]) <= 1.1 * error(frames[2][part], truth[part]) + 0.3


def test_a_cut_changes_nothing():
    before, after = photograph_crop(TEST[0], 96).astype(float), photograph_crop(TEST[1], 96).astype(float)
    frame = noisy(before, 10, 0)
    averaged = average_still(frame, [noisy(after, 10, 1)])
    assert (averaged != frame).mean() < 0.05


def test_frames_without_noise_stay_as_they_are():
    still = photograph_crop(TEST[0], 96)
    assert np.array_equal(average_still(still, [still, still]), still)
    frames = [np.full((96, 96, 3), 90, np.uint8) for _ in range(3)]
    for index, frame in enumerate(frames):
        frame[20:60, 10 + 3 * index : 50 + 3 * index] = 92
    assert np.array_equal(average_still(frames[1], [frames[0], frames[2]]), frames[1])


def test_neighbors_of_another_size_or_depth_are_left_out():
    frame = noisy(gray(), 8, 0)
    others = [noisy(gray(90), 8, 1), noisy(gray() * 257, 8, 2, np.uint16), noisy(gray()[..., :1], 8, 3)]
    assert np.array_equal(average_still(frame, others), frame) and np.array_equal(average_still(frame, []), frame)
