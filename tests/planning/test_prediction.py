"""Predictions from made counts."""

from dataclasses import replace

import pytest

from mimdit.planning.measured import Measured
from mimdit.planning.memory import Need, largest_batch, memory_rows, verdict
from mimdit.planning.prediction import Counts, collectives, need, predict, step
from mimdit.planning.step_time import Links
from tests.planning.made_plans import GIB, RUN, made_counts, made_plan, made_setting


def test_the_largest_batch_fits_and_one_more_does_not():
    setting, mine = made_setting(), need(made_counts(), made_setting(), 16)
    change = largest_batch(mine, RUN, setting.gpu, setting.assumed) - RUN.batch_size
    assert change > 0
    assert verdict(mine.of_batch(change), setting.gpu, setting.assumed) == "fits"
    assert verdict(mine.of_batch(change + 1), setting.gpu, setting.assumed) != "fits"


@pytest.mark.parametrize(("peak", "expected"), [(60, "fits"), (76, "tight"), (90, "does not fit")])
def test_what_fits_only_at_best_is_tight(peak, expected):
    setting = made_setting()
    assert verdict(Need(peak * GIB, 0, GIB, False), setting.gpu, setting.assumed) == expected


def test_what_does_not_fit_comes_with_what_would():
    setting = made_setting()
    rows = memory_rows(Need(90 * GIB, 40 * GIB, 4 * GIB, True), RUN, setting.gpu, setting.assumed, 16)
    told = " ".join(rows["remedies"])
    assert "data.batch_size: 2 with trainer.accumulate_grad_batches: 4" in told
    assert "configs/fsdp2.yaml" in told and "h200" in told and "checkpointing" in told


def test_ddp_adds_its_buckets():
    alone, several = (need(made_counts(), made_setting(), ranks).peak for ranks in (1, 16))
    assert several - alone == 2 * 10**9
    views = made_setting(replace(RUN, bucket_views=True))
    assert need(made_counts(), views, 16).peak - alone == 10**9


def test_ddp_reduces_its_gradients_and_may_send_its_buffers():
    (reduce,) = collectives(made_counts(), RUN, 16)
    assert reduce["kind"] == "all-reduce" and reduce["calls"] * reduce["size"] == pytest.approx(10**9)
    sent = collectives(made_counts(), replace(RUN, broadcast_buffers=True, window=3), 16)[1]
    assert (sent["kind"], sent["size"], sent["calls"]) == ("broadcast", 10**8, 3)
    assert collectives(made_counts(), RUN, 1) == []


def test_a_measured_step_replaces_time_and_peak():
    setting = made_setting(measured=Measured(0.5, 50 * GIB, "H100"))
    plan = predict(made_counts(), setting, [setting.links])
    assert plan["step"]["compute"] == [0.5, 0.5] and plan["step"]["limit"] == "the GPU, as measured"
    assert plan["memory"]["peak_gib"] == pytest.approx(50 + 2e9 / GIB)


def test_a_run_is_as_long_as_its_steps():
    plan = made_plan()
    assert plan["run"]["hours"] == pytest.approx([1000 * seconds / 3600 for seconds in plan["step"]["seconds"]])
    assert plan["run"]["gpu_hours"] == pytest.approx([16 * hours for hours in plan["run"]["hours"]])
    assert plan["run"]["passes"] == pytest.approx(1000 * 16 * 8 / 10_000)


def test_slow_data_is_the_limit():
    slow = made_setting(
        replace(RUN, workers=1),
        assumed=made_setting().assumed | {"latent_sample": replace(made_setting().assumed["decode"], best=1e3, worst=1e3)},
    )
    assert step(made_counts(), slow, slow.links)["limit"] == "data cores"


def test_other_ranks_hold_other_shares():
    few, many = (replace(made_counts().own, resident=size * GIB, padding=padding) for size, padding in ((8, 1.0), (2, 2.0)))
    counts = Counts(few, GIB, {64: many}, small=few)
    setting = made_setting(replace(RUN, strategy="fsdp2"))
    assert need(counts, setting, 16).peak - need(counts, setting, 64).peak == 6 * GIB
    sizes = [Links(8, nodes, 450e9, 50e9) for nodes in (2, 8)]
    assert [row["padding"] for row in predict(counts, setting, sizes)["table"]] == [1.0, 2.0]


def test_a_measured_peak_of_a_whole_copy_moves_that_of_a_share():
    setting = made_setting(replace(RUN, strategy="fsdp2"), measured=Measured(0.5, 50 * GIB, "H100"))
    counts = Counts(made_counts().own, GIB, {}, whole=47 * GIB)
    assert need(counts, setting, 16).peak == (40 + 50 - 47) * GIB
