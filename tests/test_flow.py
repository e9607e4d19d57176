"""Flow matching: the path, its draws, and the samplers."""

import math

import pytest
import torch

from mimdit.flow import FlowMatching, draw_path, num_evaluations


def tensors(*shape, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float32) for _ in range(count)]


FLOWS = [{"source": "noise"}, {"source": "estimate", "sigma_start": 0.3}, {"source": "estimate", "sigma_start": 1.0}]


@pytest.mark.parametrize("options", FLOWS)
def test_path_ends_in_the_clean_latent_and_begins_where_sampling_begins(options):
    flow, (clean, noise, estimate) = FlowMatching(**options), tensors(2, 3, 4, 4)
    end, _ = flow.interpolate(clean, noise, torch.zeros(2), estimate)
    assert torch.equal(end, clean)
    start = "estimate" if flow.source == "estimate" else "noise"
    expected, sigma_start = flow.begin(noise.clone(), start, flow.sigma_start, estimate)
    assert sigma_start == flow.sigma_start
    begin, _ = flow.interpolate(clean, noise, torch.full((2,), sigma_start), estimate)
    torch.testing.assert_close(begin, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", FLOWS)
def test_velocity_is_the_slope_of_the_path(options):
    flow, (clean, noise, estimate) = FlowMatching(**options), tensors(2, 3, 4, 4)
    sigma, step = torch.tensor([0.1, 0.25]), 2**-6
    velocity = flow.interpolate(clean, noise, sigma, estimate)[1]
    ahead, behind = (flow.interpolate(clean, noise, sigma + h, estimate)[0] for h in (step, -step))
    torch.testing.assert_close((ahead - behind) / (2 * step), velocity, rtol=1e-4, atol=1e-4)


def test_noise_path_is_sd3s():
    clean, noise, _ = tensors(2, 3, 4, 4)
    sigma = torch.tensor([0.2, 0.7])
    latents, velocity = FlowMatching().interpolate(clean, noise, sigma)
    weight = sigma[:, None, None, None]
    torch.testing.assert_close(latents, (1 - weight) * clean + weight * noise)
    assert torch.equal(velocity, noise - clean)


def test_estimate_coupling_from_pure_noise_is_the_noise_coupling():
    clean, noise, estimate = tensors(2, 3, 4, 4)
    sigma = torch.tensor([0.2, 0.7])
    for one, other in zip(
        FlowMatching("estimate", sigma_start=1.0).interpolate(clean, noise, sigma, estimate),
        FlowMatching("noise").interpolate(clean, noise, sigma),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_estimate_coupling_trains_no_estimate():
    clean, noise, estimate = tensors(2, 3, 4, 4)
    path = FlowMatching("estimate", sigma_start=0.5).interpolate(clean, noise, torch.full((2,), 0.2), estimate.requires_grad_())
    assert not any(tensor.requires_grad for tensor in path)


def test_path_stays_fp32_for_half_latents():
    clean, noise, _ = (tensor.bfloat16() for tensor in tensors(2, 3, 4, 4))
    assert all(tensor.dtype == torch.float32 for tensor in FlowMatching().interpolate(clean, noise, torch.rand(2)))


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("options", FLOWS)
def test_the_exact_velocity_of_a_straight_path_leads_to_the_clean_latent(options, steps, sampler):
    flow, (clean, noise, estimate) = FlowMatching(sampler=sampler, **options), tensors(2, 3, 4, 4)
    begin, sigma_start = flow.begin(noise.clone(), "estimate" if flow.source == "estimate" else "noise", flow.sigma_start, estimate)
    velocity = flow.interpolate(clean, noise, torch.zeros(2), estimate)[1]
    torch.testing.assert_close(flow.sample(lambda z, sigma: velocity, begin, sigma_start, steps), clean, rtol=1e-5, atol=1e-5)


def error_of(sampler, steps):
    """On dz/dsigma = -2 z from sigma 1 to 0 with z(1) = 1, whose answer is e^2."""
    flow = FlowMatching(sampler=sampler)
    found = flow.sample(lambda z, sigma: -2 * z, torch.ones(1, 1, 1, 1), 1.0, steps)
    return abs(float(found) - math.exp(2))


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_the_samplers(sampler, order):
    coarse, fine = error_of(sampler, 40), error_of(sampler, 80)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)
    assert error_of("heun", 20) < error_of("euler", 40)


@pytest.mark.parametrize(("sampler", "evaluations"), [("euler", 4), ("heun", 7)])
def test_evaluations_and_the_sigmas_they_see(sampler, evaluations):
    seen = []

    def velocity(latents, sigma):
        seen.append(sigma)
        return latents

    FlowMatching(sampler=sampler).sample(velocity, torch.ones(2, 1, 1, 1), 0.8, 4)
    assert len(seen) == evaluations == num_evaluations(4, sampler)
    assert all(sigma.shape == (2,) and sigma.dtype == torch.float32 and 0 < sigma[0] <= 0.8 for sigma in seen)
    assert sorted({round(float(sigma[0]), 4) for sigma in seen}) == [0.2, 0.4, 0.6, 0.8]


def test_start_in_noise_ignores_sigma_start_and_others_blend():
    noise, anchor = tensors(1, 1, 2, 2, count=2)
    assert FlowMatching().begin(noise, "noise", 0.3, anchor) == (noise, 1.0)
    begin, sigma = FlowMatching().begin(noise.clone(), "degraded", 0.3, anchor)
    assert sigma == 0.3
    torch.testing.assert_close(begin, 0.7 * anchor + 0.3 * noise)


def test_draws_belong_to_their_names_and_not_to_the_batch():
    flow, latents = FlowMatching(), torch.zeros(3, 3, 4, 4)
    noise, sigma = draw_path(flow, latents, ["a", "b", "c"], 0)
    again, sigma_again = draw_path(flow, latents[:2], ["c", "a"], 0)
    assert torch.equal(again, noise[[2, 0]]) and torch.equal(sigma_again, sigma[[2, 0]])
    for seed, names in ((1, "abc"), (0, "def")):
        other, other_sigma = draw_path(flow, latents, list(names), seed)
        assert (other != noise).flatten(1).any(1).all() and (other_sigma != sigma).all()
    assert noise[0].std() > 0.5 and not torch.equal(noise[0], noise[1])


def draws(count=4000, **options):
    flow, generator = FlowMatching(**options), torch.Generator().manual_seed(0)
    return torch.stack([flow.draw_sigma(generator) for _ in range(count)])


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.6)])
def test_sigma_is_logit_normal(mean, std):
    sigma = draws(logit_mean=mean, logit_std=std)
    assert sigma.dtype == torch.float32
    logits = sigma.logit()
    assert logits.mean() == pytest.approx(mean, abs=4 * std / math.sqrt(4000))
    assert logits.std() == pytest.approx(std, rel=0.05)
    # the third moment of a normal around its mean is nought, the fourth thrice the squared variance
    centered = (logits - logits.mean()) / logits.std()
    assert centered.pow(3).mean().abs() < 0.2 and centered.pow(4).mean() == pytest.approx(3, abs=0.5)


def test_a_path_from_the_estimate_is_drawn_below_its_start():
    full, scaled = draws(), draws(source="estimate", sigma_start=0.25)
    torch.testing.assert_close(scaled, full * 0.25)


def test_low_sigmas_are_drawn_as_often_as_asked_and_evenly():
    sigma = draws(low_sigma_fraction=0.5, low_sigma=0.01, logit_std=0.1)
    low = sigma[sigma < 0.01]
    assert len(low) / len(sigma) == pytest.approx(0.5, abs=0.03)
    assert low.mean() == pytest.approx(0.005, rel=0.05) and low.var() == pytest.approx(0.01**2 / 12, rel=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "image"}, ("source 'image'", "noise, estimate")),
        ({"start": "image"}, ("start 'image'", "noise, degraded, estimate")),
        ({"sampler": "rk4"}, ("sampler 'rk4'", "euler, heun")),
        ({"sigma_start": 0.0}, ("sigma_start=0.0", "(0, 1]", "steps: 0")),
        ({"sigma_start": 1.5}, ("sigma_start=1.5", "(0, 1]")),
        ({"steps": -1}, ("steps=-1", "use 0")),
        ({"low_sigma_fraction": 2.0}, ("low_sigma_fraction=2.0 is outside 0..1", "0 switches it off")),
        ({"logit_std": -1.0}, ("logit_std=-1.0 is negative", "SD3 uses 1")),
        ({"low_sigma_fraction": 0.5, "low_sigma": 2.0}, ("low_sigma=2.0", "(0, 1]")),
        ({"source": "estimate", "sigma_start": 0.1, "low_sigma_fraction": 0.5}, ("low_sigma=0.2", "(0, 0.1]")),
    ],
)
def test_a_wrong_argument_is_named_with_its_remedy(options, words):
    with pytest.raises(ValueError) as error:
        FlowMatching(**options)
    assert all(word in str(error.value) for word in words), error.value


def test_a_missing_estimate_is_an_error():
    clean, noise, _ = tensors(1, 1, 2, 2)
    with pytest.raises(ValueError, match="source 'estimate' needs a conditioner with estimate: true"):
        FlowMatching("estimate", sigma_start=0.5).interpolate(clean, noise, torch.ones(1))
    with pytest.raises(ValueError, match="start 'estimate' needs a conditioner with estimate: true; use start: degraded"):
        FlowMatching().begin(noise, "estimate", 0.5, None)
