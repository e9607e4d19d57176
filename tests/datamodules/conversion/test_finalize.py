"""Closing a conversion."""

import json

import pytest

from datamodules.conversion.plan import versions
from datamodules.conversion.write import finalize, write_shards
from datamodules.shards import ShardIndex, Sidecar
from datamodules.shards.folder import Part
from tests.datamodules.conversion.made_conversion import converted, planned
from tests.datamodules.made_sources import MadePair, write_group_folders


def test_missing_shards_are_counted_and_the_command_is_named(source, tmp_path):
    plan = planned(source, tmp_path / "data")
    write_shards(plan, part=Part(1, 2))
    missing = f"{len(plan.shards) // 2} of the {len(plan.shards)} shards .* {plan.shards[1].name} first"
    with pytest.raises(ValueError, match=rf"{missing}.*`mimdit shards foundir {source} {plan.folder} --shard_size=1`"):
        finalize(plan)
    assert not (plan.folder / "index.json").exists()


def test_the_index_lists_the_sidecars_and_says_how_it_was_made(source, tmp_path):
    index = ShardIndex.load(converted(source, tmp_path / "data"))
    assert index.samples == 54
    assert list(index.shards) == [Sidecar.load(path).entry for path in sorted((tmp_path / "data").glob("*.tar"))]
    expected = {"seed": 0, "shard_size": 1, "tile": None, "layout": "group folders", "versions": versions()}
    assert {name: index.options[name] for name in expected} == expected


def test_rejects_of_the_listing_and_of_the_shards_are_listed_by_group_and_stem(pairs, tmp_path):
    made = {group: dict(stems) for group, stems in pairs.items()}
    made["08Haze"]["0000030"] = MadePair(b"no image", ".png", b"no image", ".png")
    made["08Haze"]["0000025"] = made["08Haze"]["0000025"]._replace(gt=None)
    made["01Blur"]["0000002"] = MadePair(b"", ".png", b"", ".png")
    folder = converted(write_group_folders(tmp_path / "source", made), tmp_path / "data")
    lines = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert [(line["group"], line["name"]) for line in lines] == [("01Blur", "0000002"), ("08Haze", "0000025"), ("08Haze", "0000030")]
    assert "nothing" in lines[0]["reason"] and "no GT image" in lines[1]["reason"] and "6e 6f" in lines[2]["reason"]
