"""Each lint comes where its cause is, and nowhere else."""

from dataclasses import replace

import pytest

from tests.planning.made_plans import KERNELS, RUN, made_counts, made_plan, made_setting

SLOW_HOST = [row | {"calls": 10_000, "bytes": 0, "flops": 0} for row in KERNELS]
GATHERS = [{"kind": "all-gather", "dtype": "bfloat16", "size": 10**9, "ranks": 16, "stride": 1, "calls": 4}]
SHARDED = replace(RUN, strategy="fsdp2", compiled=True, sampling_steps=28)
COMPILED = replace(RUN, compiled=True)


def found(counts=None, setting=None) -> list[str]:
    return [lint.partition(":")[0] for lint in made_plan(counts, setting)["lints"]]


def test_a_sound_plan_has_none():
    assert found(setting=made_setting(COMPILED)) == []


@pytest.mark.parametrize(("padding", "expected"), [(1.1, []), (3.2, ["padding"])])
def test_padding(padding, expected):
    assert found(made_counts(padding=padding), made_setting(COMPILED)) == expected


def test_sharded_validation():
    plan = made_plan(made_counts(collectives=GATHERS), made_setting(SHARDED))
    assert [lint for lint in plan["lints"] if lint.startswith("sharded validation") and "28 sampling steps gathers up to 2.0 GB" in lint]
    assert "sharded validation" not in found(made_counts(collectives=GATHERS), made_setting(replace(SHARDED, sampling_steps=0)))


def test_eager_mode():
    assert found(made_counts(kernels=SLOW_HOST)) == ["eager mode"]
    assert found(made_counts(kernels=SLOW_HOST), made_setting(COMPILED)) == []


def test_more_images_than_samples():
    assert "batch" in found(setting=made_setting(COMPILED, samples=127))
    assert "batch" not in found(setting=made_setting(COMPILED, samples=128))


def test_more_passes_than_the_data_is_worth():
    short = made_setting(COMPILED, samples=640)  # 128 images a step: 200 passes in 1000 steps
    (lint,) = made_plan(setting=short)["lints"]
    assert lint.startswith("schedule: 1,000 steps are 200 passes") and "--trainer.max_steps=500" in lint
    assert found(setting=made_setting(COMPILED, samples=None)) == []
