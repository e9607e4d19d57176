"""The stream over real gloo ranks and worker processes: once each, the same samples, and continued on any number of them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules.restoration import RestorationDataModule
from datamodules.rng import named_rng
from tests.datamodules.made_shards import keys_of, make_folder
from tests.processes import run_in_processes

WORKERS = (0, 1, 3)
STEPS, MORE = 5, 2


@dataclass
class OnRank:
    """What one rank of ``world`` does, importable in a spawned process."""

    world: int
    train: str
    states: dict

    def __call__(self, rank: int) -> dict:
        return {
            "begun": {workers: self.begin(rank, workers) for workers in WORKERS},
            "continued": {f"{name} {w}": self.finish(rank, w, state) for name, state in self.states.items() for w in WORKERS},
        }

    def datamodule(self, rank: int, workers: int) -> RestorationDataModule:
        # A spawned process would spawn its workers too, and each of them import torch for seconds.
        data = RestorationDataModule(self.train, batch_size=2, crop=16, num_workers=workers, multiprocessing_context="fork", seed=5)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=self.world, global_step=0)
        return data

    def begin(self, rank: int, workers: int) -> dict:
        """Train some steps, take the state, go on; then continue from the state on as many consumers."""
        data, seen, state = self.datamodule(rank, workers), [], None
        for number, batch in enumerate(data.train_dataloader()):
            if number == STEPS:
                state = data.state_dict()
            if number == STEPS + MORE:
                break
            data.trainer.global_step += 1
            data.mark_consumed(batch)
            seen.append(described(batch))
        again = self.datamodule(rank, workers)
        again.load_state_dict(state)
        batches = iter(again.train_dataloader())
        return {"seen": seen, "state": state, "again": [described(next(batches)) for _ in range(MORE)]}

    def finish(self, rank: int, workers: int, state: dict) -> dict:
        """Continue a state of other consumers until none of this rank's has anything of the begun epochs left."""
        data = self.datamodule(rank, workers)
        data.load_state_dict(state)
        loader = data.train_dataloader()
        first, waiting, seen = data._partition.first_epoch, set(range(max(1, workers))), []
        for batch in loader:
            seen += described(batch)
            consumer, pass_number, _ = batch["position"]
            if pass_number >= first:
                waiting.discard(consumer % max(1, workers))
            if not waiting:
                return {"first": first, "seen": seen}


def described(batch: dict) -> list[tuple[str, float]]:
    """Each pair's draw and a number that tells its pixels."""
    weights = torch.from_numpy(named_rng("weights").random(batch["lq"][0].shape))
    return [(name, float((image * weights).sum())) for name, image in zip(batch["draw"], batch["lq"], strict=True)]


@pytest.mark.long
def test_any_number_of_ranks_and_workers_continues_any_other(tmp_path: Path):
    train = str(make_folder(tmp_path / "data").folder)
    states, begun, pixels = {}, {}, {}
    for world in (1, 2, 4):
        ranks = run_in_processes(OnRank(world, train, states), tmp_path / f"world{world}", world)
        for workers in WORKERS:
            runs = [rank["begun"][workers] for rank in ranks]
            assert all(run["state"] == runs[0]["state"] for run in runs)  # gathered: every rank holds everybody's
            assert all(run["again"] == run["seen"][STEPS:] for run in runs)  # as many consumers: the very next batches
            assert {len(run["seen"]) for run in runs} == {STEPS + MORE}  # equal steps
            counted = [draw for run in runs for batch in run["seen"][:STEPS] for draw in batch]
            states[f"{world}x{workers}"], begun[f"{world}x{workers}"] = runs[0]["state"], counted
            for name, number in [draw for run in runs for batch in run["seen"] for draw in batch]:
                assert pixels.setdefault(name, number) == number  # ranks and workers do not change a sample
        for name in ranks[0]["continued"]:
            before = begun[name.split()[0]]
            parts = [rank["continued"][name] for rank in ranks]
            drawn = [*before, *(draw for part in parts for draw in part["seen"])]
            assert all(pixels.setdefault(draw, number) == number for draw, number in drawn)
            # Of the epochs that were begun each sample came once, before or after the change.
            uses = Counter(draw.rsplit("/", 1)[0] for draw, _ in drawn if int(draw.split("/")[0]) < parts[0]["first"])
            assert uses == Counter(f"{repeat}/{key}" for repeat in range(parts[0]["first"]) for key in keys_of())
    assert len(states) == 9 and len(pixels) > 60
