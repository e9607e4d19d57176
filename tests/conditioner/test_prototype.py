"""The conditioner with prototype routers: all that works with linear ones."""

import pytest
import torch

from callbacks.expert_utilization import prototype_similarity
from mimdit.conditioner import MoEConditioner
from mimdit.conditioner.int8 import quantize_experts
from mimdit.conditioner.pruning import prune
from mimdit.routing import PrototypeRouter
from mimdit.routing.routing import uniform_routing
from tests.tiny_models import randomize, tiny_batch, tiny_conditioner, tiny_restorer
from tests.tiny_training import train

PROTOTYPE = {"router": "prototype", "num_layers": 4, "num_blocks": 2}


def latents(batch=3):
    return torch.randn(batch, 3, 16, 32, generator=torch.Generator().manual_seed(0))


def living(**options):
    conditioner = tiny_conditioner(**PROTOTYPE | options)
    randomize(conditioner, 0)
    return conditioner


@pytest.mark.parametrize("options", [{"inter": "sparse"}, {"inter": "uniform"}, {"intra": "dense"}, {"intra": "none"}, {"top_k": 1}])
def test_every_ablation_reaches_each_trainable_router(options):
    conditioner = living(learn_temperature=True, **options)
    said = conditioner(latents(), reroute=[])
    assert all(isinstance(router, PrototypeRouter) for block in conditioner.blocks for router in (block.inter_moe.router,))
    (said.rerouted.inter.logits.square().sum() + said.rerouted.intra.logits.square().sum()).backward()
    reached = {name for name, parameter in conditioner.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, parameter in conditioner.named_parameters() if ".router." in name and parameter.requires_grad}


def test_saving_keeps_router_and_temperature(tmp_path):
    conditioner = living(temperature=0.3, learn_temperature=True)
    conditioner.save_pretrained(tmp_path)
    loaded = MoEConditioner.from_pretrained(tmp_path)
    assert loaded.config == conditioner.config and loaded.config["temperature"] == 0.3
    assert torch.equal(loaded(latents()).residuals[1], conditioner(latents()).residuals[1])


def test_uniform_and_gained_gates_replace_the_decisions():
    conditioner = living()
    routing = conditioner(latents()).routing
    forced = conditioner(latents(), uniform_routing(routing)).routing
    assert torch.equal(forced.intra.weights, torch.full_like(forced.intra.weights, 1 / 3))
    without = conditioner(latents(), gains_MG=torch.tensor([[0.0, 1, 1, 1]] * 2)).routing
    assert not without.inter.weights[..., 0].any()


def test_pruning_keeps_the_prototypes_of_the_most_used():
    conditioner = living()
    load = torch.tensor([0.2, 0.5, 0.3]).expand(2, 4, 3)
    small = prune(conditioner, load, 2).blocks[0].inter_moe.groups[0].router
    assert torch.equal(small.prototypes_NP, conditioner.blocks[0].inter_moe.groups[0].router.prototypes_NP[1:])


def test_int8_experts_leave_the_decisions_as_they_were(tmp_path):
    conditioner = living()
    before = conditioner(latents()).routing.inter.logits[0]
    quantize_experts(conditioner)
    conditioner.save_pretrained(tmp_path)
    assert torch.equal(MoEConditioner.from_pretrained(tmp_path)(latents()).routing.inter.logits[0], before)


@pytest.mark.parametrize("name", ["contrast", "guide"])
def test_training_lowers_the_loss(name):
    balance = {"balance": 0.0, "z": 0.0, "importance": 0.0, name: 1.0}
    restorer = tiny_restorer(
        conditioner={"estimate": True, "router": "prototype", "top_k": 1},
        balance=balance,
        flow_weight=0.0,
        estimate_weight=1.0,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    )
    batch, values = tiny_batch(8), []
    for batches in ([batch] * 20, []):
        with torch.no_grad():
            routing = restorer.conditioner(batch["lq"] * 2 - 1).routing
            values.append(float(restorer.balance(routing, batch["degradation"])[name]))
        if batches:
            train(restorer, batches)
    assert values[1] < values[0]


def test_the_largest_similarity_of_each_gate_is_found():
    restorer = tiny_restorer(conditioner={"router": "prototype"})
    with torch.no_grad():
        restorer.conditioner.blocks[0].inter_moe.groups[1].router.prototypes_NP.copy_(torch.eye(32)[[0, 1, 1]])
        restorer.conditioner.blocks[0].inter_moe.groups[2].router.prototypes_NP.copy_(torch.eye(32)[:3])
    found = prototype_similarity(restorer, restorer.conditioner.groups)
    assert found["experts_gates/prototype_similarity/block0/channel"] == pytest.approx(1.0)
    assert found["experts_gates/prototype_similarity/block0/swin"] == 0.0
    assert prototype_similarity(tiny_restorer(), restorer.conditioner.groups) == {}


def test_losses_without_prototypes_and_unknown_routers_are_refused():
    for name in ("contrast", "guide"):
        with pytest.raises(ValueError, match=rf"{name}=0.5 needs prototypes, but router: linear; set router: prototype"):
            tiny_restorer(balance={name: 0.5})
    with pytest.raises(ValueError, match=r"router 'cosine' is unknown; choose one of linear, prototype"):
        tiny_conditioner(router="cosine")
    with pytest.raises(ValueError, match=r"learn_temperature: true needs router: prototype"):
        tiny_conditioner(learn_temperature=True)
