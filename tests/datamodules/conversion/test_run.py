"""Writing shards in parts and in processes, and stopping on the way."""

import errno
import os

import pytest

from datamodules.conversion.plan_file import ShardLine
from datamodules.conversion.write import finalize, interleave_groups, write_shards
from datamodules.shards.folder import ConversionStoppedError, Part
from tests.datamodules.conversion.made_conversion import content, converted, planned


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    return content(converted(source, tmp_path_factory.mktemp("whole") / "data"))


def test_a_second_run_gives_the_same_bytes(source, whole, tmp_path):
    assert content(converted(source, tmp_path / "data")) == whole


@pytest.mark.parametrize("parts", [2, 5, 20])
def test_parts_give_the_bytes_of_the_whole(source, whole, tmp_path, parts):
    assert content(converted(source, tmp_path / "data", parts=parts)) == whole


def test_three_processes_give_the_bytes_of_one(source, whole, tmp_path):
    assert content(converted(source, tmp_path / "data", workers=3)) == whole


def test_an_error_in_another_process_is_told_as_in_this_one(source, tmp_path):
    plan = planned(source, tmp_path / "data")
    plan.header["root"] = str(tmp_path / "elsewhere")
    with pytest.raises(ConversionStoppedError, match=r"elsewhere.*0 of \d+ shards are finished"):
        write_shards(plan, workers=2)


def test_a_part_is_every_nth_shard(source, tmp_path):
    plan = planned(source, tmp_path / "data")
    assert Part.parse("2/3").share(plan.shards) == [shard for place, shard in enumerate(plan.shards) if place % 3 == 1]
    write_shards(plan, part=Part(2, 3))
    assert {path.name for path in plan.folder.glob("*.tar")} == {shard.name for shard in Part(2, 3).share(plan.shards)}


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_part_that_is_none_is_named(text):
    with pytest.raises(ValueError, match=f"part is '{text}'"):
        Part.parse(text)


def test_what_is_done_is_kept_and_the_rest_written_again(source, whole, tmp_path):
    folder = converted(source, tmp_path / "data")
    kept, short, no_sidecar, damaged, *_ = sorted(folder.glob("*.tar"))
    short.write_bytes(short.read_bytes()[:1000])
    no_sidecar.with_suffix(".json").unlink()
    damaged.with_suffix(".json").write_text("{")
    before = kept.stat().st_mtime_ns
    assert content(converted(source, folder)) == whole
    assert kept.stat().st_mtime_ns == before


def test_only_what_killed_processes_left_of_the_own_shards_is_removed(source, tmp_path):
    plan = planned(source, tmp_path / "data")
    own, other = (part.share(plan.shards)[0].name for part in (Part(1, 2), Part(2, 2)))
    left = [f".{name}.12-ab.tmp" for name in (own, own.replace(".tar", ".json"), other, "plan.jsonl")]
    for name in left:
        (plan.folder / name).write_bytes(b"half")
    write_shards(plan, part=Part(1, 2))
    assert {path.name for path in plan.folder.glob(".*")} == set(left[2:])
    write_shards(plan, part=Part(2, 2))
    finalize(plan)
    assert list(plan.folder.glob(".*")) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("calls", [0, 3, 5])
def test_a_full_disk_stops_and_is_taken_up_again(source, whole, tmp_path, monkeypatch, code, calls):
    plan = planned(source, tmp_path / "data")
    sync, left = os.fsync, iter(range(calls))

    def until_full(descriptor):
        if next(left, None) is None:
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    message = f"{calls // 4} of {len(plan.shards)} shards are finished.*continue with"
    with monkeypatch.context() as patch, pytest.raises(ConversionStoppedError, match=message):
        patch.setattr(os, "fsync", until_full)
        write_shards(plan)
    assert list(plan.folder.glob(".*")) == []
    assert content(converted(source, plan.folder)) == whole


def test_every_group_is_begun_at_once_and_all_end_together():
    counts = {"01Blur": 12, "05Noise": 4, "08Haze": 8}
    shards = [ShardLine(f"{group}-{number:06d}.tar", group, 1, 1, 0) for group, count in counts.items() for number in range(count)]
    order = interleave_groups(shards)
    assert sorted(order, key=lambda shard: shard.name) == shards
    for end in range(6, 25, 6):
        for group, count in counts.items():
            assert abs(sum(shard.group == group for shard in order[:end]) - end * count / 24) <= 1
