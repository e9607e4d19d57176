"""Shares that change while training: the same samples over any timing, processes and resumption, and none left out."""

import itertools
from collections import Counter
from types import SimpleNamespace

import pytest

from datamodules.restoration import RestorationDataModule
from tests.datamodules.made_shards import make_folder

SHARES = {"00Clean": 0.1, "01Blur": 0.2, "09Lowlight_Haze": 0.7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_folder(tmp_path_factory.mktemp("shares") / "data").folder)


def datamodule(folder, *, workers: int = 0, world_size: int = 1, **options) -> RestorationDataModule:
    settings = {"batch_size": 2, "crop": 16, "num_workers": workers, "epoch_samples": 20, "max_bad_samples": 0, "prefetch": 2, **options}
    data = RestorationDataModule(folder, **settings)
    data.trainer = SimpleNamespace(global_rank=0, world_size=world_size, global_step=0, accumulate_grad_batches=1)
    return data


def consume(data, count: int, change: dict[int, dict] | None = None, early: int = 1) -> tuple[list[tuple], dict]:
    """Return what ``count`` steps used, and the state after them; like Lightning, fetch ``early`` batches before their steps."""
    batches, fetched, used = iter(data.train_dataloader()), [], []
    for step in range(count):
        if step in (change or {}):
            data.set_shares(change[step])
        fetched += itertools.islice(batches, 1 + early - len(fetched))
        batch = fetched.pop(0)
        data.trainer.global_step += 1
        data.mark_consumed(batch)
        used += zip(batch["group"], batch["draw"], strict=True)
    return used, data.state_dict()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_serves_the_new_shares_from_the_announced_epoch_on(folder, workers):
    data = datamodule(folder, workers=workers)
    data.train_dataloader()
    first = data.set_shares(SHARES)
    used, _ = consume(data, 10 * (first + 4))
    counts = [Counter(group for group, _ in used[20 * epoch : 20 * epoch + 20]) for epoch in range(first + 4)]
    old, new = data._mixtures.at(0).quotas, {"00Clean": 2, "01Blur": 4, "09Lowlight_Haze": 14}
    if workers == 0:
        assert counts == [old] * first + [new] * 4
    else:  # the workers take turns, so their epochs end together
        assert sum(counts, Counter()) == Counter({group: first * old[group] + 4 * new[group] for group in old})
    assert data.shares == pytest.approx(SHARES)


@pytest.mark.parametrize("workers, prefetch", [(0, 2), (2, 1), (2, 4), (3, 2)])
@pytest.mark.parametrize("stop", [7, 8, 23])
def test_a_resumed_stream_equals_one_that_was_not_stopped(folder, workers, prefetch, stop):
    change = {7: SHARES, 13: {"00Clean": 0.4, "01Blur": 0.4, "09Lowlight_Haze": 0.2}, 24: dict.fromkeys(SHARES, 1.0)}
    whole, state = consume(datamodule(folder, workers=workers, prefetch=prefetch), 45, change)
    begun, saved = consume(datamodule(folder, workers=workers, prefetch=prefetch), stop, change)
    resumed = datamodule(folder, workers=workers, prefetch=prefetch)
    resumed.load_state_dict(saved)
    resumed.trainer.global_step = stop
    rest, end = consume(resumed, 45 - stop, {step - stop: shares for step, shares in change.items() if step >= stop})
    assert begun + rest == whole and end == state


def test_no_sample_is_left_out_or_repeated_around_a_change(folder):
    used, _ = consume(datamodule(folder), 120, {5: SHARES, 31: dict.fromkeys(SHARES, 1.0)})
    sizes = {"00Clean": 3, "01Blur": 15, "09Lowlight_Haze": 7}
    for group, size in sizes.items():
        draws = [draw for at, draw in used if at == group]
        assert len(set(draws)) == len(draws)
        assert [int(draw.split("/")[0]) for draw in draws] == [number // size for number in range(len(draws))]


def test_it_does_not_matter_how_far_the_workers_are(folder):
    lazy, _ = consume(datamodule(folder, workers=2), 40, {4: SHARES, 11: dict.fromkeys(SHARES, 1.0)}, early=0)
    eager, _ = consume(datamodule(folder, workers=2), 40, {4: SHARES, 11: dict.fromkeys(SHARES, 1.0)}, early=1)
    assert lazy == eager


def test_on_other_workers_the_changed_shares_go_on(folder):
    before, state = consume(datamodule(folder, workers=2), 24, {3: SHARES})
    resumed = datamodule(folder, workers=3)
    resumed.load_state_dict(state)
    resumed.trainer.global_step = 24
    after, _ = consume(resumed, 60)
    assert resumed.shares == pytest.approx(SHARES)
    draws = [use for use in before + after]
    assert len(set(draws)) == len(draws)


def test_the_config_wins_once_it_changes(folder):
    data = datamodule(folder)
    _, state = consume(data, 24, {3: SHARES})
    other = datamodule(folder, weights={"01Blur": 1, "09Lowlight_Haze": 1})
    other.load_state_dict(state)
    other.train_dataloader()
    assert other.shares == {"01Blur": 0.5, "09Lowlight_Haze": 0.5}


@pytest.mark.parametrize("samples, message", [(0, "epoch_samples is 0"), (2, "epoch_samples is 2, but there are 3 training groups")])
def test_an_epoch_shorter_than_the_groups_is_refused(folder, samples, message):
    with pytest.raises(ValueError, match=message):
        datamodule(folder, epoch_samples=samples).train_dataloader()


def test_shares_of_other_groups_and_before_the_stream_are_refused(folder):
    data = datamodule(folder)
    with pytest.raises(ValueError, match="before train_dataloader"):
        data.set_shares(SHARES)
    data.train_dataloader()
    for shares in ({"01Blur": 1.0}, {**SHARES, "01Blur": 0.0}, {**SHARES, "01Blur": float("nan")}):
        with pytest.raises(ValueError, match="must name the training groups 00Clean, 01Blur, 09Lowlight_Haze, each with a number above 0"):
            data.set_shares(shares)
