"""Which checkpoints stay."""

import itertools

import pytest

from callbacks.retention import CheckpointRecord, Retention

NAMES = ["a", "b", "c", "d", "e"]
SIZES = dict.fromkeys(NAMES, 10)


@pytest.mark.parametrize(
    "retention,room,gone",
    [
        (Retention(2), 0, "abc"),
        (Retention(-1), 0, ""),
        (Retention(1, best=2), 0, "ac"),
        (Retention(1, best=2, mode="min"), 0, "bd"),
        (Retention(-1, best=1, max_bytes=35), 0, "ac"),  # the oldest, and not b, the best
        (Retention(-1, best=1, max_bytes=35), 10, "acd"),
        (Retention(-1, best=2, max_bytes=20), 0, "acd"),  # d is the worse of the two best
        (Retention(2, best=2, max_bytes=5), 10, "abcd"),  # the newest stays
    ],
)
def test_newest_best_and_quota(retention, room, gone):
    scores = {"a": 1.0, "b": 9.0, "c": 2.0, "d": 5.0, "e": float("nan")}
    assert "".join(retention.superfluous(NAMES, SIZES, scores, room)) == gone


def test_the_newest_stays_whatever_the_numbers():
    for newest, best, most, room in itertools.product((1, 2, -1), (0, 1, 3), (0, 15, 45), (0, 10)):
        assert "e" not in Retention(newest, best, "max", most).superfluous(NAMES, SIZES, {"a": 1.0, "e": 0.0}, room)


def test_the_record_lists_complete_checkpoints_after_a_restart(tmp_path):
    record = CheckpointRecord(tmp_path)
    record.begin("a.ckpt")
    (tmp_path / "a.ckpt").write_bytes(b"no checkpoint")
    record.set_score("a.ckpt", 2.0)
    record.begin("b.ckpt")  # and never written
    assert record.names() == ["a.ckpt"] and record.sizes() == {"a.ckpt": 13} and record.scores() == {"a.ckpt": 2.0}
    assert CheckpointRecord(tmp_path).names() == []  # an incomplete one is dropped


def test_one_that_could_not_be_replaced_is_not_the_newest(tmp_path):
    record = CheckpointRecord(tmp_path)
    for name in ("a.ckpt", "b.ckpt"):
        (tmp_path / name).write_bytes(b"")
        record.begin(name)
        record.complete(name)
    record.begin("a.ckpt")
    assert record.names() == ["a.ckpt", "b.ckpt"]
    record.complete("a.ckpt")
    assert record.names() == ["b.ckpt", "a.ckpt"]
