"""A plan on disk."""

import json

import pytest

from datamodules.conversion.options import Options
from datamodules.conversion.plan import make_plan
from datamodules.conversion.plan_file import StoredPlan, pair_bytes, read_planned_shard, save_plan
from datamodules.sources.listing import list_pairs
from tests.datamodules.made_sources import write_archives


@pytest.fixture(scope="module")
def plan(pairs, tmp_path_factory):
    source = write_archives(tmp_path_factory.mktemp("archives"), pairs)
    return make_plan(list_pairs(source), Options(shard_size=1), {"command": "foundir", "src": str(source)})


def test_every_shard_is_read_back_from_its_line_alone(plan, tmp_path):
    save_plan(plan, tmp_path / "plan.jsonl")
    stored = StoredPlan.load(tmp_path / "plan.jsonl")
    assert stored.header == json.loads(json.dumps(plan.header)) and stored.options == Options(shard_size=1)
    assert len(stored.shards) == len(plan.shards) > 3
    for line, shard in zip(stored.shards, plan.shards, strict=True):
        assert read_planned_shard(stored.path, line.offset) == shard
        assert (line.name, line.group) == (shard.name, shard.group)
        assert (line.count, line.bytes) == (len(shard.pairs), sum(map(pair_bytes, shard.pairs)))


def test_equal_plans_are_equal_files(plan, tmp_path):
    for name in "ab":
        save_plan(plan, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "source, command",
    [
        ({"command": "foundir", "src": "/data", "groups": ["01Blur", "08Haze"]}, "foundir /data {} --groups=[01Blur,08Haze]"),
        ({"command": "foundir", "src": "/data", "groups": None}, "foundir /data {}"),
        ({"command": "pairs", "lq": "/a", "gt": "/b", "group": "10Rain"}, "pairs {} --lq=/a --gt=/b --group=10Rain"),
    ],
)
def test_the_command_gives_what_is_not_default(tmp_path, source, command):
    header = {"schema": 1, "source": source, "options": Options(seed=3, limit=0.5).to_dict()}
    (tmp_path / "plan.jsonl").write_text(json.dumps(header) + "\n")
    expected = f"mimdit shards {command.format(tmp_path)} --limit=0.5 --seed=3"
    assert StoredPlan.load(tmp_path / "plan.jsonl").command() == expected


@pytest.mark.parametrize(
    "text, message", [("", "not a plan"), ("{}\n", "not a plan"), ('{"schema": 99}\n', "version 99"), ("[1]\n{", "not a plan")]
)
def test_what_is_no_plan_is_named(tmp_path, text, message):
    path = tmp_path / "plan.jsonl"
    with pytest.raises(ValueError, match="missing.*mimdit shards foundir"):
        StoredPlan.load(path)
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"plan\.jsonl .*{message}"):
        StoredPlan.load(path)
