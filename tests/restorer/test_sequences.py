"""Frames of a shot: one set of decisions, and no flicker."""

import numpy as np
import pytest
import torch

from datamodules.synthetic.scenes import make_scene
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sequences import shot_of
from tests.tiny_models import randomize, tiny_restorer


def still(sigma, *, frames=8, size=128, seed=1):
    """Frames of a still scene with independent noise."""
    scene = torch.from_numpy(make_scene(size, seed=seed)).permute(2, 0, 1).float()
    scene = scene / 255 if scene.max() > 1 else scene
    noise = torch.randn(frames, *scene.shape, generator=torch.Generator().manual_seed(0)) * sigma
    return (scene + noise).clamp(0, 1)


def flicker(frames):
    return frames.std(dim=0, correction=0).mean().item()


def restored(model, frames, **settings):
    """Each frame by itself, as the command does, with the shot's decisions."""
    shot = shot_of(model, (frame[None] for frame in frames), model.sampling_settings(**settings))
    return torch.cat([model.restore(frame[None], shot=shot, **settings) for frame in frames])


def model(**conditioner):
    options = {"num_blocks": 1, "estimate": True, "tone_powers": [0, 1], "tone_grid": 8} | conditioner
    made = tiny_restorer(conditioner=options, flow={"steps": 2, "start": "estimate", "sigma_start": 0.3}, tile=32, overlap=8)
    randomize(made.conditioner, 1, scale=0.1)
    return made.eval()


@pytest.mark.long
@pytest.mark.parametrize("sampling", [{}, {"sigma_start": 0.1, "start": "estimate", "steps": 2}])
def test_independent_noise_on_a_still_scene_flickers_less_with_the_embedded_weights(sampling):
    default, frames = Restorer.from_pretrained(), still(25 / 255)
    out = restored(default, frames, **sampling)
    assert flicker(frames) > 0.05 and flicker(out) <= 0.6 * flicker(frames)
    assert (out.mean(dim=0) - frames.mean(dim=0)).abs().mean() < 0.1  # it is still the scene


@pytest.mark.long
def test_the_brightness_of_a_whole_frame_flickers_less_than_without_the_shots_decisions():
    default, frames = Restorer.from_pretrained(), still(15 / 255)
    alone = torch.cat([default.restore(frame[None]) for frame in frames])
    levels, levels_alone = (images.mean(dim=(1, 2, 3)).std().item() for images in (restored(default, frames), alone))
    assert levels < levels_alone / 2


@pytest.mark.parametrize("sampling", [{}, {"start": "noise"}, {"tile": 40}])
def test_a_noiseless_still_scene_does_not_flicker_at_all(sampling):
    frames = still(0, frames=3, size=72)
    out = restored(model(), frames, **sampling)
    assert all(torch.equal(frame, out[0]) for frame in out) and not torch.equal(out[0], frames[0])


@pytest.mark.parametrize("tile", [None, 40])
@pytest.mark.parametrize("conditioner", [{}, {"identify": True, "confidence": True}, {"tone_powers": []}])
def test_a_shot_of_one_frame_is_restored_like_an_image(conditioner, tile):
    made, frames = model(**conditioner), still(0.1, frames=1, size=72)
    assert (restored(made, frames, tile=tile) - made.restore(frames, tile=tile)).abs().max() < 1e-5


@pytest.mark.parametrize("tile", [None, 40])
def test_frames_share_gates_tone_and_identification_and_pieces_change_nothing(tile):
    made, settings = model(identify=True, confidence=True), {"tile": tile}
    frames = torch.cat([still(0.02, frames=1, size=72), still(0.3, frames=1, size=72, seed=2)])
    shot = shot_of(made, frames.split(1), made.sampling_settings(**settings))
    seen = []
    out = [made.restore(frame[None], shot=shot, explain=seen.append, **settings) for frame in frames]
    assert torch.equal(seen[0].inter.weights, seen[1].inter.weights) and torch.equal(seen[0].intra.weights, seen[1].intra.weights)
    own = [made.restore(frame[None], **settings) for frame in frames]
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(out, own))
    whole = [made.restore(frame[None], shot=shot) for frame in frames]
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(out, whole))


def test_statistics_are_the_mean_over_the_frames():
    made, frames = model(), torch.cat([still(0.02, frames=1, size=72), still(0.3, frames=1, size=72, seed=2)])
    shot, alone = (shot_of(made, some, made.sampling_settings()) for some in (frames.split(1), frames[:1].split(1)))
    other = shot_of(made, frames[1:].split(1), made.sampling_settings())
    assert torch.allclose(shot.tone_BF, (alone.tone_BF + other.tone_BF) / 2)
    assert torch.allclose(shot.routing.inter.logits, (alone.routing.inter.logits + other.routing.inter.logits) / 2, atol=1e-5)


def test_steering_counts_once():
    made, frames = model(), still(0.1, frames=1, size=72)
    steer = {"channel": 3.0}
    assert np.allclose(restored(made, frames, steer=steer), made.restore(frames, steer=steer), atol=1e-5)
