"""Gates, their losses and the window's re-routing on CUDA as on the CPU."""

import pytest
import torch

from mimdit.core.batch import ATOMS
from mimdit.routing.balance import RoutingBalance
from mimdit.routing.router import Router, router_features
from tests.cuda.devices import DEVICE, assert_near, moved
from tests.routing.made_routing import made_routing
from tests.tiny_models import randomize

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("mode", ["dense", "sparse", "uniform"])
def test_a_router_decides_the_same_and_stays_fp32_under_autocast(mode):
    router = Router(12, 5, mode=mode)
    randomize(router, 0)
    features = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    expected = router(features)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        actual = moved(router)(moved(features))
    assert all(value.device.type == DEVICE.type for value in vars(actual).values())
    assert actual.weights.dtype == torch.float32 and torch.equal(actual.indices.cpu(), expected.indices)
    floats = ("logits", "probs", "weights")
    assert_near({name: getattr(actual, name) for name in floats}, {name: getattr(expected, name) for name in floats}, 1e-5)


def test_features_of_the_router():
    hidden = torch.randn(3, 8, 16, 24, generator=torch.Generator().manual_seed(0)).mul(3).add(1)
    assert_near({"features": router_features(moved(hidden))}, {"features": router_features(hidden)}, 1e-5)


def test_the_losses():
    routing, degradation = made_routing(6), (torch.rand(6, len(ATOMS), generator=torch.Generator().manual_seed(0)) < 0.3).float()
    balance = RoutingBalance(balance=1.0, z=1.0, importance=1.0, specialization=1.0)
    expected = balance(routing, degradation)
    assert_near(moved(balance)(moved(routing), moved(degradation)), expected, 1e-5)
