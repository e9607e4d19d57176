"""A restorer with experts inside its transformer: what trains, what is saved, and its routing losses over ranks."""

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from mimdit.backbone import InnerExperts, LoRA
from mimdit.backbone.inner_experts import is_expert
from mimdit.restorer.pipeline import MiMDiTPipeline
from mimdit.restorer.restorer import Restorer
from tests.distributed.made_runs import SGD, of_rank, settings
from tests.processes import run_in_processes
from tests.tiny_models import PIXART, randomize, tiny_backbone, tiny_batch, tiny_conditioner, tiny_restorer
from tests.tiny_training import KeepGradients, gradients, train

MOE = InnerExperts(every=1, num_experts=4)


def restorer(*, lora: LoRA | None = None, trainable: bool = False, moe: InnerExperts | None = MOE, seed: int = 1, **options) -> Restorer:
    """A restorer whose injection, experts and adapters are far from zero."""
    made = tiny_restorer(backbone={"moe": moe, "lora": lora, "trainable": trainable}, **options)
    randomize(made.conditioner, seed, scale=0.1)
    for index, (name, parameter) in enumerate(made.named_parameters()):
        if is_expert(name) or ".lora_" in name:
            nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(100 * seed + index))
    made.ema.restart()
    return made


def backbone_gradients(step: dict) -> dict:
    return {name: gradient for name, gradient in step.items() if name.startswith("backbone.")}


def test_beside_a_frozen_transformer_the_experts_train_and_all_of_them():
    made = restorer()
    (step,) = gradients(made, [tiny_batch()])
    found = backbone_gradients(step)
    assert found.keys() == {name for name, _ in made.named_parameters() if is_expert(name) and not name.startswith("ema.")}
    assert len(found) == 2 * 5 and all(gradient.any() for gradient in found.values())


def test_experts_without_tokens_have_a_gradient_of_zero():
    made = restorer()
    with torch.no_grad():
        for block in made.backbone.transformer.transformer_blocks:
            block.ff.experts.router.linear.bias.copy_(torch.tensor([50.0, 40.0, 0.0, -50.0]))
    (step,) = gradients(made, [tiny_batch()])
    stacks = [gradient for name, gradient in backbone_gradients(step).items() if ".experts.weight_" in name]
    assert all(gradient[:2].any() and not gradient[2:].any() for gradient in stacks) and len(stacks) == 4


def test_without_a_flow_loss_nothing_reaches_them_and_nothing_of_them_trains():
    made = restorer(flow_weight=0.0, estimate_weight=1.0, conditioner={"estimate": True})
    (step,) = gradients(made, [tiny_batch()])
    assert not backbone_gradients(step)


def test_its_losses_are_logged_and_returned_with_the_routing():
    made = restorer()
    output = made.training_step(tiny_batch(), 0)
    made.zero_grad()
    routing, logits = output["token_routing"], output["token_routing"].logits_LTE
    assert not logits.requires_grad and logits.shape == (2, 2 * 16, 4)
    chosen = torch.zeros_like(logits).scatter(-1, routing.indices_LTK, 1.0)
    balance = 4 * (chosen.mean(1) / 2 * logits.softmax(-1).mean(1)).sum(-1).mean()
    heavier = restorer(moe=InnerExperts(every=1, num_experts=4, balance=1.01, z=2.001)).training_step(tiny_batch(), 0)
    expected = balance + 2 * logits.logsumexp(-1).square().mean()
    torch.testing.assert_close(heavier["loss"] - output["loss"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["frozen", "trainable", "lora"])
def test_a_checkpoint_and_a_folder_hold_what_trained(case, tmp_path):
    options = {"frozen": {}, "trainable": {"trainable": True}, "lora": {"lora": LoRA(rank=2)}}[case]
    made, batch = restorer(**options).eval(), tiny_batch()
    expected = made.restore(batch["lq"])
    checkpoint = {"state_dict": made.state_dict()}
    made.on_save_checkpoint(checkpoint)
    kept = {name for name in checkpoint["state_dict"] if name.startswith("backbone.transformer.")}
    trained = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert {name for name in kept if is_expert(name)} == {name for name in trained if is_expert(name)} != set()
    of_transformer = {name for name in made.state_dict() if name.startswith("backbone.transformer.")}
    assert kept == (of_transformer if case == "trainable" else {name for name in trained if name.startswith("backbone.")})
    again = restorer(**options, seed=2)
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"])
    assert torch.equal(again.eval().restore(batch["lq"]), expected)

    made.save_pretrained(tmp_path, dtype=torch.float32)
    own = None if case == "trainable" else tiny_backbone()
    assert torch.equal(Restorer.from_pretrained(tmp_path, backbone=own).restore(batch["lq"]), expected)
    if case != "trainable":  # then the config names the written folder as the backbone's
        parts = tiny_backbone(moe=MOE, lora=options.get("lora")), tiny_conditioner(), made.balance, made.flow
        started = dict(Restorer(*parts, overlap=16, pretrained=str(tmp_path)).named_parameters())
        assert all(torch.equal(started[name], parameter) for name, parameter in made.named_parameters() if name in trained)


@pytest.mark.parametrize("trainable", [False, True])
def test_a_complete_folder_holds_them_once(trainable, tmp_path):
    made, images = restorer(trainable=trainable).eval(), tiny_batch()["lq"]
    MiMDiTPipeline(made).save_pretrained(tmp_path, dtype=torch.float32)
    assert len(list(tmp_path.rglob("inner_experts.safetensors"))) == 1
    assert torch.equal(Restorer.from_pretrained(tmp_path).restore(images), made.restore(images))


def test_a_folder_with_experts_is_not_taken_for_one_without(tmp_path):
    restorer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"was trained with the experts in .*; give the backbone moe of their settings"):
        tiny_restorer(pretrained=str(tmp_path))


def test_checkpointing_changes_neither_losses_nor_gradients():
    steps = []
    for checkpointing in (False, True):
        made = tiny_restorer(backbone={"moe": MOE, "architecture": PIXART, "checkpointing": checkpointing})
        randomize(made.conditioner, 1, scale=0.1)
        for index, (name, parameter) in enumerate(made.backbone.named_parameters()):
            if is_expert(name):
                nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(index))
        steps += gradients(made, [tiny_batch()])
    plain, recomputed = steps
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def run(rank: int, world: int, strategy: str) -> dict:
    made, keep = restorer(moe=InnerExperts(every=1, num_experts=4, balance=1.0, z=0.1), optimizer=SGD), KeepGradients()
    train(made, of_rank(rank, world, 1, 2), callbacks=[keep], **settings(strategy, world))
    return {"gradients": [{name: whole(gradient) for name, gradient in step.items() if is_expert(name)} for step in keep.steps]}


def ddp(rank: int) -> dict:
    return run(rank, 2, "ddp")


def fsdp2(rank: int) -> dict:
    return run(rank, 2, "fsdp2")


@pytest.mark.parametrize("strategy", [ddp, fsdp2])
def test_two_ranks_train_like_one_process(strategy, tmp_path):
    one = run(0, 1, "auto")
    for two in run_in_processes(strategy, tmp_path):
        for found, expected in zip(two["gradients"], one["gradients"], strict=True):
            assert found.keys() == expected.keys() and len(found) == 10
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-7, msg=name)
