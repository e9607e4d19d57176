"""Parameter groups and the schedule."""

from functools import partial

import pytest
import torch

from mimdit.training.optimization import WarmupConstantDecay, WarmupCosine, parameter_groups
from tests.tiny_models import tiny_batch, tiny_restorer
from tests.tiny_training import train


def test_groups_hold_each_trainable_parameter_once_and_spare_routers_biases_and_scales():
    restorer = tiny_restorer(conditioner={"estimate": True}, estimate_weight=1.0)
    decayed, spared = parameter_groups(restorer)
    assert "weight_decay" not in decayed and spared["weight_decay"] == 0.0
    names = {parameter: name for name, parameter in restorer.named_parameters()}
    decayed, spared = ({names[parameter] for parameter in group["params"]} for group in (decayed, spared))
    assert not decayed & spared
    assert decayed | spared == {name for name, parameter in restorer.named_parameters() if parameter.requires_grad}
    assert all(name in spared for name in decayed | spared if ".router." in name or name.endswith((".bias", "norm1.scale", "norm2.scale")))
    assert all(name.endswith((".bias", ".scale", "temperature_E")) or ".router." in name for name in spared)


def test_a_router_does_not_decay_and_an_idle_expert_does():
    restorer = tiny_restorer()
    inter_moe = restorer.conditioner.blocks[0].inter_moe
    router, expert = inter_moe.groups[0].router.linear.weight, inter_moe.groups[0].experts.out.weight_EOI
    before = router.detach().clone(), expert.detach().clone()
    optimizer = torch.optim.AdamW(parameter_groups(restorer), lr=0.1, weight_decay=0.5)
    for parameter in restorer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(router, before[0])
    torch.testing.assert_close(expert.detach(), before[1] * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_a_fused_optimizer_clips_as_another_does(precision, algorithm):
    """Lightning refuses to, in bf16-mixed."""
    options = {"precision": precision, "gradient_clip_val": 1e-3, "gradient_clip_algorithm": algorithm}
    weights = []
    for fused in (True, False):
        restorer = tiny_restorer(optimizer=partial(torch.optim.SGD, lr=1.0, fused=fused))
        train(restorer, [tiny_batch(2, seed=1)], **options)
        weights.append(torch.cat([p.detach().flatten() for p in restorer.conditioner.parameters() if p.requires_grad]))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-9)
    moved = weights[0] - torch.cat([p.detach().flatten() for p in tiny_restorer().conditioner.parameters() if p.requires_grad])
    size = moved.norm() if algorithm == "norm" else moved.abs().max()
    torch.testing.assert_close(size, torch.tensor(1e-3), rtol=1e-3, atol=0)


def rates(steps, total, schedule=WarmupCosine, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule(optimizer, total, **options)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_schedule_warms_up_falls_as_a_half_cosine_and_stays_at_its_floor():
    found = rates(60, 50, warmup_steps=10, floor=0.1)
    assert found[:10] == pytest.approx([2.0 * (step + 1) / 10 for step in range(10)])
    assert found[10] == pytest.approx(2.0)
    assert found[30] == pytest.approx(2.0 * (0.1 + 0.9 / 2))  # half way down
    assert found[50:] == pytest.approx([0.2] * 10)
    assert all(later <= earlier for earlier, later in zip(found[10:], found[11:], strict=False))


def test_no_warm_up_begins_at_the_top():
    assert rates(1, 10, warmup_steps=0) == [2.0]


def test_a_run_shorter_than_its_warm_up_is_an_error():
    with pytest.raises(ValueError, match=r"total_steps=100 must exceed warmup_steps=100"):
        rates(1, 100, warmup_steps=100)


def test_a_constant_rate_is_the_same_for_any_length_until_its_decay():
    short, long = (rates(60, total, WarmupConstantDecay, warmup_steps=4, decay_steps=10, floor=0.1) for total in (30, 60))
    assert short[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert short[:20] == long[:20] and set(short[4:21]) == {2.0}
    assert short[25] == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert short[30:] == pytest.approx([0.2] * 30)


def test_warm_up_and_decay_must_fit_into_the_run():
    with pytest.raises(ValueError, match=r"warmup_steps=60 and decay_steps=50 do not fit into total_steps=100"):
        rates(1, 100, WarmupConstantDecay, warmup_steps=60, decay_steps=50)
