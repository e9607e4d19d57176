"""Sharded checkpoints open on any number of ranks and under any strategy, and are to the bit what was gathered."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from mimdit import cli
from mimdit.distributed.checkpoint_files import newest_complete, read_checkpoint
from mimdit.distributed.sharded_checkpoint import what_is_missing
from tests.distributed.made_runs import resume, save_and_go_on
from tests.processes import run_in_processes

pytestmark = pytest.mark.long


SHARDED: dict[int, tuple[str, ...]] = {2: ("fsdp2",), 4: ("fsdp2", "hsdp")}
"""Strategies that write folders, by number of ranks."""


def save_all(rank: int, world: int, folder: str) -> dict[str, dict]:
    strategies = SHARDED[world] + ("ddp",)
    runs = {strategy: save_and_go_on(rank, world, strategy, folder) for strategy in strategies}
    if world == 2:
        return runs | {"resumed": resume_all(rank, world, folder, strategies)}
    return runs | {"resumed_in_pairs": [resume(rank, world, "hsdp", f"{folder}/{saved}.ckpt") for saved in strategies]}


def resume_all(rank: int, world: int, folder: str, checkpoints: tuple[str, ...]) -> list[dict]:
    """Each strategy from the others' checkpoints and from its own."""
    found = [(strategy, saved) for strategy in ("fsdp2", "ddp") for saved in checkpoints]
    return [resume(rank, world, strategy, f"{folder}/{saved}.ckpt") for strategy, saved in found]


@pytest.fixture(scope="module", params=[2, 4])
def saved(request, tmp_path_factory) -> tuple[Path, list[dict]]:
    """Checkpoints of as many ranks, and what these saw."""
    folder = tmp_path_factory.mktemp("saved")
    return folder, run_in_processes(partial(save_all, world=request.param, folder=str(folder)), folder / "ranks", request.param)


def mean_loss(ranks: list[dict], first: int = 0) -> torch.Tensor:
    return torch.stack([losses["train/loss"][first:] for losses in ranks]).mean(dim=0)


def test_whole_again_they_are_what_was_gathered(saved, tmp_path):
    folder, ranks = saved
    ddp = torch.load(folder / "ddp.ckpt", weights_only=True)
    for strategy in SHARDED[len(ranks)]:
        cli.main(["checkpoint", "consolidate", str(folder / f"{strategy}.ckpt"), str(tmp_path / f"{strategy}.ckpt")])
        held = torch.load(tmp_path / f"{strategy}.ckpt", weights_only=True)
        gathered, moments = ranks[0][strategy]["state"], ranks[0][strategy]["moments"]
        left_out = set(gathered) - set(held["state_dict"])
        assert left_out and left_out == {name for name in gathered if name.startswith("backbone.")}
        for name, tensor in held["state_dict"].items():
            assert torch.equal(tensor, gathered[name]), name
        states = list(held["optimizer_states"][0]["state"].values())
        for state, values in zip(states, moments.values(), strict=True):
            assert set(state) == {"step", "exp_avg", "exp_avg_sq"} and all(torch.equal(state[key], values[key]) for key in state)
        assert held.keys() == ddp.keys() and held["state_dict"].keys() == ddp["state_dict"].keys() and held["frozen"] == ddp["frozen"]


def test_any_strategy_goes_on_on_any_number_of_ranks(saved, tmp_path):
    folder, ranks = saved
    expected = mean_loss([rank["ddp"]["losses"] for rank in ranks], first=3)
    checkpoints = SHARDED[len(ranks)] + ("ddp",)
    for name in checkpoints:
        torch.testing.assert_close(mean_loss([rank[name]["losses"] for rank in ranks], first=3), expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(resume(0, 1, "auto", str(folder / f"{name}.ckpt"))["train/loss"], expected, rtol=1e-5, atol=0)
    if len(ranks) == 2:  # these have done it already: a process takes long to start
        everyone = [rank["resumed"] for rank in ranks]
    else:
        in_pairs = zip(*[rank["resumed_in_pairs"] for rank in ranks], strict=True)
        everyone = run_in_processes(partial(resume_all, world=2, folder=str(folder), checkpoints=checkpoints), tmp_path, 2)
        for each in in_pairs:
            torch.testing.assert_close(mean_loss(each), expected, rtol=1e-5, atol=0)
    for each in zip(*everyone, strict=True):
        torch.testing.assert_close(mean_loss(each), expected, rtol=1e-5, atol=0)


def test_a_folder_that_lacks_anything_is_not_taken(saved, tmp_path):
    sharded = saved[0] / "fsdp2.ckpt"
    index = json.loads((sharded / "index.json").read_text())
    assert what_is_missing(sharded) is None and len(index["files"]) == index["ranks"] + 1
    for number, name in enumerate(["index.json", *index["files"]]):
        broken = shutil.copytree(sharded, tmp_path / f"step={number}.ckpt")
        with open(broken / name, "r+b") as file:
            file.truncate((broken / name).stat().st_size - 9)
        assert what_is_missing(broken) is not None
        with pytest.raises(ValueError, match="not a complete checkpoint"):
            read_checkpoint(broken)
    assert newest_complete(tmp_path) is None
    shutil.copytree(sharded, tmp_path / ".step=3.ckpt.writing")  # its run died before the renaming
    assert newest_complete(tmp_path) == tmp_path / ".step=3.ckpt.writing"


def test_inspect_tells_what_there_is(saved, capsys):
    cli.main(["checkpoint", "inspect", str(saved[0] / "fsdp2.ckpt")])
    printed = capsys.readouterr().out
    assert "complete, folder written by" in printed and "step 3" in printed and "left out: transformer" in printed
