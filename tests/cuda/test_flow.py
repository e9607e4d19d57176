"""Path, draws and samplers on CUDA as on the CPU."""

import pytest
import torch

from mimdit.flow import FlowMatching, draw_path
from tests.cuda.devices import DEVICE, assert_near, moved

pytestmark = pytest.mark.cuda


def latents(seed=0):
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("source", ["noise", "estimate"])
def test_noise_sigma_and_path_are_those_of_the_cpu(source):
    flow, names = FlowMatching(source=source, sigma_start=0.5 if source == "estimate" else 1.0), ["0/a", "0/b", "0/c"]
    found = []
    for device in (DEVICE, torch.device("cpu")):
        clean, estimate = moved(latents(0), device), moved(latents(1), device)
        noise, sigma = draw_path(flow, clean, names, seed=3)
        assert noise.device.type == sigma.device.type == device.type
        found.append((noise, sigma, *flow.interpolate(clean, noise, sigma, estimate)))
    assert all(torch.equal(found[0][part].cpu(), found[1][part]) for part in (0, 1))
    named = [dict(zip(("noisy", "velocity"), parts[2:])) for parts in found]
    assert_near(named[0], named[1], 1e-6)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_the_samplers_reach_the_point_that_the_cpu_reaches(sampler):
    flow, ends = FlowMatching(sampler=sampler), []
    for device in (DEVICE, torch.device("cpu")):
        field = moved(latents(1), device)
        ends.append(flow.sample(lambda z, sigma, f=field: z * sigma[:, None, None, None] + f.sin(), moved(latents(), device), 1.0, 28))
    assert ends[0].device.type == DEVICE.type
    assert_near({"end": ends[0]}, {"end": ends[1]}, 1e-5)
