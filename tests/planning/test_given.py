"""Values that the user gives: assumptions, measured steps, GPUs, configs."""

import json
from dataclasses import replace

import pytest

from mimdit.planning.assumptions import DEFAULTS, with_given
from mimdit.planning.hardware import find_gpu
from mimdit.planning.measured import read_measured
from mimdit.planning.run_config import read_run

CONFIG = {
    "trainer": {"strategy": "ddp", "precision": "bf16", "max_steps": 10, "gradient_clip_val": None, "accumulate_grad_batches": 2},
    "model": {
        "class_path": "mimdit.Restorer",
        "init_args": {"backbone": {"init_args": {"compile": True}}, "flow": {"init_args": {"steps": 4}}},
    },
    "data": {
        "class_path": "datamodules.RestorationDataModule",
        "init_args": {"batch_size": 4, "crop": 32, "train": "data/x", "validation": "v"},
    },
}


def test_a_given_assumption_replaces_its_default():
    assumed = with_given({"traffic": "0.5", "launch": "5..9"})
    assert (assumed["traffic"].best, assumed["traffic"].worst, assumed["traffic"].reason) == (0.5, 0.5, "given")
    assert (assumed["launch"].best, assumed["launch"].worst) == (5, 9)
    assert assumed["links"] == DEFAULTS["links"]


@pytest.mark.parametrize(
    ("given", "message"), [({"network": "1"}, "choose one of"), ({"links": "fast"}, "links=VALUE"), ({"links": "0"}, "above 0")]
)
def test_an_assumption_that_cannot_be_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        with_given(given)


def test_figures_of_the_benchmark_are_read(tmp_path):
    file = tmp_path / "step.json"
    file.write_text(
        json.dumps({"seconds": {"step in a row": 0.3}, "peak_memory_gib": 42.0, "options": {"batch_size": 16}, "device": "H100"})
    )
    measured = read_measured(file, 16)
    assert (measured.seconds, measured.peak, measured.device) == (0.3, 42 * 2**30, "H100")


@pytest.mark.parametrize(
    ("figures", "message"),
    [({"seconds": 0.3, "batch_size": 8}, "of 8 images"), ({"speed": 3}, "holds no figures"), ({"seconds": 0}, "longer than 0")],
    ids=["batch", "none", "zero"],
)
def test_figures_of_another_step_are_refused(tmp_path, figures, message):
    (tmp_path / "step.json").write_text(json.dumps(figures))
    with pytest.raises(ValueError, match=message):
        read_measured(tmp_path / "step.json", 16)


def test_an_unknown_gpu_is_refused_with_those_known():
    assert find_gpu("H100").memory < find_gpu("h200").memory
    with pytest.raises(ValueError, match="h100"):
        find_gpu("v100")


def test_the_facts_of_a_config():
    run = read_run(CONFIG)
    assert (run.strategy, run.precision, run.max_steps, run.window, run.batch_size) == ("ddp", "bf16-mixed", 10, 2, 4)
    assert run.compiled and not run.checkpointing and run.broadcast_buffers and run.sampling_steps == 4


@pytest.mark.parametrize(
    ("path", "strategy"),
    [
        ("mimdit.distributed.FSDP2Strategy", "fsdp2"),
        ("lightning.pytorch.strategies.DDPStrategy", "ddp"),
        ("auto", "ddp"),
        ("fsdp2", "fsdp2"),
    ],
)
def test_strategies_by_name_and_by_class(path, strategy):
    named = {"class_path": path, "init_args": {}} if "." in path else path
    assert read_run(CONFIG | {"trainer": CONFIG["trainer"] | {"strategy": named}}).strategy == strategy


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("strategy", "deepspeed", "auto, ddp or"), ("precision", "transformer-engine", "bf16-mixed")],
)
def test_what_a_plan_does_not_know_is_refused(key, value, message):
    with pytest.raises(ValueError, match=message):
        read_run(CONFIG | {"trainer": CONFIG["trainer"] | {key: value}})


@pytest.mark.parametrize(("over", "copies"), [("all", 1), ("node", 4), (16, 2)])
def test_copies_of_sharded_weights(over, copies):
    named = {"class_path": "mimdit.distributed.FSDP2Strategy", "init_args": {"shard_over": over}}
    run = read_run(CONFIG | {"trainer": CONFIG["trainer"] | {"strategy": named}})
    assert run.copies(32, 8) == copies
    with pytest.raises(ValueError, match="does not divide"):
        replace(run, shard_over=5).copies(32, 8)


def test_a_data_module_of_unknown_batches_is_refused():
    with pytest.raises(ValueError, match="batch_size and crop"):
        read_run(CONFIG | {"data": {"class_path": "own.Data", "init_args": {}}})
