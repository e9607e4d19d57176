"""Sequences: shared decisions, and flicker of a still scene."""

import numpy as np
import pytest
import torch

from datamodules.synthetic.photographs import TEST, photograph_crop
from mimdit.conditioner.in_pieces import condition_in_pieces
from mimdit.restorer.pixels import restore_pixels
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sequence import decide_for_shot, reference_frames
from mimdit.restorer.temporal import average_still
from tests.tiny_models import randomize, tiny_conditioner, tiny_restorer

OPTIONS = {"estimate": True, "tone_powers": [0, 1], "identify": True, "confidence": True}


def pictures(count, height=32, width=32):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, height, width, generator=generator) * torch.linspace(0.3, 1, count)[:, None, None, None]


def test_decisions_of_one_image_are_used_for_another_whole_and_in_pieces():
    conditioner, images = tiny_conditioner(**OPTIONS), pictures(2, 64, 64) * 2 - 1
    randomize(conditioner, 0)
    own = [conditioner(image[None]) for image in images]
    other = conditioner(images[1:], decisions=own[0].decisions)
    assert torch.equal(other.routing.intra.weights, own[0].routing.intra.weights)
    assert torch.equal(other.tone, own[0].tone) and not torch.equal(own[1].tone, own[0].tone)
    assert torch.equal(other.identified, own[0].identified) and not torch.equal(other.estimate, own[1].estimate)
    assert torch.equal(conditioner(images[:1], decisions=own[0].decisions).estimate, own[0].estimate)
    pieces = condition_in_pieces(conditioner, images[1:], 32 * 32, decisions=own[0].decisions)
    torch.testing.assert_close(pieces.estimate, other.estimate, rtol=1e-4, atol=1e-5)


def test_a_shots_decisions_are_those_of_its_frames_as_one_tall_image():
    restorer = tiny_restorer(conditioner=OPTIONS, flow={"start": "estimate", "sigma_start": 0.3}).eval()
    randomize(restorer.conditioner, 0)
    frames = [(frame * 255).round().byte().permute(1, 2, 0).numpy() for frame in pictures(3)]
    decided = decide_for_shot(restorer, frames)
    tall = torch.from_numpy(np.concatenate(frames).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    expected = restorer.conditioner(tall)
    torch.testing.assert_close(decided.tone, expected.tone)
    assert torch.equal(decided.routing.intra.indices, expected.routing.intra.indices)
    with pytest.raises(ValueError, match=r"sizes \[\(16, 32\), \(32, 32\)\]; give each shot its own call"):
        decide_for_shot(restorer, [*frames, frames[0][:16]])


@pytest.mark.parametrize("count, indices", [(1, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (10, [0, 3, 6, 9]), (101, [0, 33, 67, 100])])
def test_reference_frames_are_spread_over_the_shot(count, indices):
    assert reference_frames(count) == indices


RADIUS = 2
"""Default of ``mimdit restore --smooth``."""


def flicker(frames):
    """Mean over pixels of the standard deviation over frames."""
    return np.std(np.stack(frames).astype(float), axis=0).mean()


def in_sequence(restorer, frames, **options):
    settings = restorer.sampling_settings(**options)
    decisions = decide_for_shot(restorer, [frames[index] for index in reference_frames(len(frames))], settings)
    near = [[frames[other] for other in range(max(0, index - RADIUS), index + RADIUS + 1) if other in range(len(frames)) and other != index]
            for index in range(len(frames))]  # fmt: skip
    averaged = [average_still(frame, neighbors) for frame, neighbors in zip(frames, near)]
    return [restore_pixels(restorer, frame, settings, decisions=decisions) for frame in averaged]


def noisy_frames(name, sigma, seed=0):
    """Four frames of a still photograph with independent noise."""
    rng, scene = np.random.default_rng(seed), photograph_crop(name, 96).astype(float)
    return [np.clip(scene + rng.normal(0, sigma, scene.shape), 0, 255).round().astype(np.uint8) for _ in range(4)]


@pytest.mark.parametrize("sigma", [5, 10, 15, 25, 50])
def test_still_scenes_with_noise_flicker_less(sigma):
    restorer, shots = Restorer.from_pretrained(), [noisy_frames(name, sigma) for name in TEST]
    assert np.mean([flicker(in_sequence(restorer, frames)) / flicker(frames) for frames in shots]) <= 0.6


SAMPLED = {"start": "estimate", "sigma_start": 0.3, "steps": 2}


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["by default", "with the sampler's noise"])
def test_a_still_scene_without_noise_does_not_flicker(options):
    frames = [photograph_crop(TEST[0], 96)] * 3
    assert flicker(in_sequence(Restorer.from_pretrained(), frames, **options)) == 0


def test_the_brightness_of_frames_flickers_less_than_that_of_frames_by_themselves():
    restorer, shots = Restorer.from_pretrained(), [noisy_frames(name, 10) for name in TEST]
    together = [np.std([frame.mean() for frame in in_sequence(restorer, frames)]) for frames in shots]
    alone = [np.std([restore_pixels(restorer, frame).mean() for frame in frames]) for frames in shots]
    assert np.mean(together) < 0.6 * np.mean(alone)
