"""The moving average."""

import pytest
import torch
from torch import nn

from mimdit.training.ema import ExponentialMovingAverage


def model():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    net[0].bias.requires_grad_(False)
    return net


def values(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_update_is_the_closed_form_with_its_warm_up():
    net = model()
    ema = ExponentialMovingAverage(net, 0.5)
    expected = net[1].weight.detach().double().clone()
    for step in range(20):
        with torch.no_grad():
            net[1].weight.add_(torch.randn(1, 3))
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net[1].weight.detach().double()
    torch.testing.assert_close(ema.average["1/weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_where_the_device_says_that_the_step_was_skipped_the_average_stays():
    net = model()
    told, plain = ExponentialMovingAverage(net, 0.5), ExponentialMovingAverage(net, 0.5)
    with torch.no_grad():
        net[1].weight.add_(1)
    before = values(told)
    told.update(3, skipped=torch.tensor(True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in values(told).items())
    told.update(3, skipped=torch.tensor(False))
    plain.update(3)
    torch.testing.assert_close(values(told), values(plain), rtol=1e-6, atol=1e-7)
    assert not torch.equal(told.average["1/weight"], before["average.1/weight"])


def test_it_averages_what_trains_and_nothing_else():
    ema = ExponentialMovingAverage(model())
    assert set(ema.average) == {"0/weight", "1/weight", "1/bias"}
    assert not any(parameter.requires_grad for parameter in ema.parameters())


def test_restarted_it_is_what_is_live():
    net = model()
    ema = ExponentialMovingAverage(net)
    with torch.no_grad():
        net[1].weight.add_(1)
    live = values(net)
    ema.restart()
    assert all(torch.equal(average, live[name.replace("/", ".")]) for name, average in ema.average.items())
    assert all(torch.equal(tensor, live[name]) for name, tensor in values(net).items())
    ema.update(0)
    assert torch.equal(net[1].weight, live["1.weight"])  # a copy, not the same memory


def test_adopted_the_average_is_live_and_stays_the_average():
    net = model()
    ema = ExponentialMovingAverage(net)
    average = values(ema)
    with torch.no_grad():
        net[1].weight.add_(1)
    ema.adopt()
    assert torch.equal(net[1].weight, average["average.1/weight"])
    assert all(torch.equal(tensor, average[name]) for name, tensor in values(ema).items())


def test_swap_exchanges_and_is_its_own_inverse():
    net = model()
    ema = ExponentialMovingAverage(net)
    start = values(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    live, average = values(net), values(ema)
    pointers = [parameter.data_ptr() for parameter in net.parameters()]
    ema.swap()
    assert torch.equal(net[0].weight, start["0.weight"]) and torch.equal(ema.average["0/weight"], live["0.weight"])
    assert torch.equal(net[0].bias, live["0.bias"])  # does not train: not swapped
    assert [parameter.data_ptr() for parameter in net.parameters()] == pointers  # in place: optimizers keep their parameters
    ema.swap()
    assert all(torch.equal(value, live[name]) for name, value in values(net).items())
    assert all(torch.equal(value, average[name]) for name, value in values(ema).items())


def test_the_live_weights_are_the_average_inside_the_context_and_come_back_after_an_error():
    net = model()
    ema = ExponentialMovingAverage(net)
    start = values(net)
    with torch.no_grad():
        net[0].weight.add_(1)
    live = values(net)
    with pytest.raises(OSError, match="full"), ema.averaged():
        assert torch.equal(net[0].weight, start["0.weight"]) and not torch.equal(net[0].weight, live["0.weight"])
        raise OSError("full")
    assert all(torch.equal(value, live[name]) for name, value in values(net).items())


def test_as_a_sub_module_it_does_not_list_the_model_twice():
    net = model()
    net.ema = ExponentialMovingAverage(net)
    assert sorted(values(net)) == sorted([*values(model()), *(f"ema.average.{n}" for n in ("0/weight", "1/weight", "1/bias"))])


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_wrong_decay_is_named(decay):
    with pytest.raises(ValueError, match=rf"ema_decay={decay} is outside \[0, 1\)"):
        ExponentialMovingAverage(model(), decay)


def test_the_average_of_bf16_weights_stays_fp32_and_moves():
    net = model()
    ema = ExponentialMovingAverage(net, 0.999)
    net.to(torch.bfloat16), ema.to(torch.bfloat16)
    before = values(ema)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1)
    ema.update(100_000)
    for name, average in values(ema).items():
        assert average.dtype == torch.float32
        live = net.get_parameter(name.removeprefix("average.").replace("/", ".")).detach().float()
        torch.testing.assert_close(average, before[name] + 0.001 * (live - before[name]))
        assert not torch.equal(average, before[name])
