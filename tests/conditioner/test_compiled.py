"""The conditioner compiled, and recomputed in the backward pass: the same answers, whole graphs, less memory."""

import functools

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from mimdit.conditioner import MoEConditioner
from tests.processes import run_in_processes
from tests.tiny_models import randomize, tiny_batch, tiny_conditioner, tiny_restorer


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def living(**options):
    conditioner = tiny_conditioner(**{"dim": 16, "hidden": 8, "num_layers": 4} | options)
    randomize(conditioner, 0)
    return conditioner


def latents(height=16, width=32, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def answers(conditioner, inputs, precision="fp32", **given):
    """All that it says and the gradients of all its weights."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        said = conditioner(inputs, **given)
    loss_of(said).backward()
    told = {f"residual {n}": residual for n, residual in enumerate(said.residuals)} | {"estimate": said.estimate}
    told |= {"intra": said.routing.intra.weights, "inter": said.routing.inter.weights}
    return told | gradients(conditioner)


def loss_of(said):
    """A loss that reaches every weight but those of the timestep."""
    routing = said.rerouted or said.routing
    of_residuals = sum(residual.float().square().mean() for residual in said.residuals)
    return of_residuals + said.estimate.square().mean() + routing.intra.probs.square().sum() + routing.inter.probs[..., 0].sum()


def gradients(conditioner):
    return {name: parameter.grad for name, parameter in conditioner.named_parameters() if parameter.grad is not None}


def assert_same(actual, expected, tolerance=2e-5):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        error = (actual[name].float() - value.float()).abs().max() / value.float().abs().max().clamp_min(1e-12)
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize(("precision", "dispatch", "tolerance"), [("fp32", "gather", 2e-5), ("bf16", "grouped", 0.05)])
def test_the_whole_conditioner_is_one_graph_with_equal_output(precision, dispatch, tolerance):
    plain, compiled = (living(estimate=True, tone_powers=[0, 1], dispatch=dispatch) for _ in range(2))
    earlier = plain(latents()).routing.features_MBF
    compiled.compile(backend="aot_eager", fullgraph=True)
    given = {"precision": precision, "reroute": [earlier]}
    assert_same(answers(compiled, latents(), **given), answers(plain, latents(), **given), tolerance)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


def with_backend(monkeypatch, **options):
    """Let ``Module.compile`` use a backend that needs no compiler."""
    options = {"backend": "aot_eager", "fullgraph": True} | options
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, **options))


@pytest.mark.parametrize("grids", [{}, {"moe_dim": 12, "feed_forward": "conv", "identify": True, "confidence": True}], ids=str)
def test_compiled_and_recomputed_blocks_share_one_graph_with_equal_output(monkeypatch, grids):
    with_backend(monkeypatch)
    options = {"estimate": True, "num_blocks": 3, "num_layers": 4, "groups": ["se", "channel"]} | grids
    plain, compiled = living(**options), living(**options, compile=True, checkpointing=True)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert_same(answers(compiled, latents()), answers(plain, latents()))
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.long
def test_one_compiled_conditioner_takes_images_of_many_sizes(monkeypatch):
    with_backend(monkeypatch)
    plain, compiled = living(num_blocks=2), living(num_blocks=2, compile=True)
    for size in [(16, 16), (16, 32), (48, 32), (64, 80), (80, 16), (96, 112), (112, 64), (128, 96), (64, 144), (160, 48)]:
        with torch.no_grad():
            for actual, expected in zip(compiled(latents(*size)).residuals, plain(latents(*size)).residuals, strict=True):
                torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.long
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.05)])
def test_inductor_has_equal_output(precision, tolerance):
    plain, compiled = living(estimate=True), living(estimate=True, compile=True)
    assert_same(answers(compiled, latents(), precision), answers(plain, latents(), precision), tolerance)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_changes_neither_output_nor_gradient(precision):
    plain, frugal = (living(estimate=True, num_blocks=2, checkpointing=checkpointing) for checkpointing in (False, True))
    given = {"precision": precision, "reroute": []}
    assert_same(answers(frugal, latents(), **given), answers(plain, latents(), **given), tolerance=0)


def test_checkpointing_decides_once_and_keeps_less():
    kept = {}
    for checkpointing in (False, True):
        conditioner = living(num_blocks=3, num_layers=4, checkpointing=checkpointing)
        decisions, sizes = [], {}
        conditioner.blocks[0].inter_moe.router.register_forward_hook(lambda *_, d=decisions: d.append(torch.is_grad_enabled()))

        def pack(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            said = conditioner(latents(32, 32))
        assert said.routing.intra.indices.shape == (3, 4, 2, 2) and len(decisions) == 1
        weights = {parameter.untyped_storage().data_ptr() for parameter in conditioner.parameters()}
        kept[checkpointing] = sum(size for place, size in sizes.items() if place not in weights)
    assert kept[True] < 0.2 * kept[False]


def test_how_it_runs_is_no_part_of_what_is_saved(tmp_path):
    conditioner = living(compile=True, checkpointing=True, dispatch="grouped")
    conditioner.save_pretrained(tmp_path)
    again = MoEConditioner.from_pretrained(tmp_path)
    assert again.config == conditioner.config == living().config and not again.checkpointing


DDP = {"groups": ["se", "swin"], "num_experts": 4, "estimate": True}


def gradients_under_ddp(rank):
    """Averaged gradients of one step, each rank with other images, which choose other sub-experts."""
    conditioner = living(**DDP, checkpointing=True)
    conditioner.timestep_scale.requires_grad_(False)
    for block in conditioner.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    wrapped = DistributedDataParallel(conditioner)  # a name of its own: it must live until the backward pass is done
    loss_of(wrapped((rank + 1) * latents())).backward()
    return gradients(conditioner)


@pytest.mark.long
def test_compiled_and_recomputed_under_ddp_its_gradients_are_the_mean_over_ranks(tmp_path):
    found = run_in_processes(gradients_under_ddp, tmp_path / "ranks")
    alone = []
    for rank in range(2):
        conditioner = living(**DDP)
        conditioner.timestep_scale.requires_grad_(False)
        loss_of(conditioner((rank + 1) * latents())).backward()
        alone.append(gradients(conditioner))
    expected = {name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0]}
    for rank in range(2):
        assert_same(found[rank], expected)


@pytest.mark.long  # compiles a minute
def test_the_gradients_of_a_compiled_training_step_in_bf16_are_finite_and_those_of_an_eager_one():
    gradients_of = {}
    for compiled in (False, True):
        restorer = tiny_restorer(conditioner={"compile": compiled}, backbone={"dtype": "bfloat16"})
        with torch.autocast("cpu", torch.bfloat16):
            restorer.training_step(tiny_batch(2, 32, seed=1), 0)["loss"].backward()
        gradients_of[compiled] = gradients(restorer.conditioner)
    assert_same(gradients_of[True], gradients_of[False], tolerance=0.05)
