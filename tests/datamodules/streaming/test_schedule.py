"""Mixtures one after another: what an epoch takes, what a checkpoint keeps, what a worker process sees."""

import torch.multiprocessing as mp

from datamodules.streaming.mixture import Mixture, quotas_of_shares
from datamodules.streaming.partition import Partition
from datamodules.streaming.schedule import MixtureSchedule, SharedMixtures

FIRST, SECOND, THIRD = {"a": 6, "b": 4}, {"a": 2, "b": 8}, {"a": 5, "b": 5}


def test_orders_go_on_where_the_epoch_before_ended():
    schedule = MixtureSchedule.of(Mixture(FIRST)).followed_by(SECOND, first_epoch=3).followed_by(THIRD, first_epoch=5)
    position = dict.fromkeys(FIRST, 0)
    for epoch in range(8):
        mixture = schedule.at(epoch)
        assert mixture.quotas == (FIRST if epoch < 3 else SECOND if epoch < 5 else THIRD)
        for group in FIRST:
            assert mixture.start(group, epoch) == position[group]
            position[group] += mixture.quotas[group]


def test_a_later_change_replaces_one_that_has_not_begun():
    schedule = MixtureSchedule.of(Mixture(FIRST)).followed_by(SECOND, first_epoch=5)
    assert schedule.followed_by(THIRD, first_epoch=5) == MixtureSchedule.of(Mixture(FIRST)).followed_by(THIRD, first_epoch=5)


def test_old_mixtures_are_dropped_and_the_rest_survives_a_checkpoint():
    schedule = MixtureSchedule.of(Mixture(FIRST)).followed_by(SECOND, first_epoch=3).followed_by(THIRD, first_epoch=5)
    kept = MixtureSchedule.from_state_dict(schedule.since(4).state_dict())
    assert len(kept.mixtures) == 2 and kept.configured == FIRST
    assert [kept.at(epoch) for epoch in range(4, 9)] == [schedule.at(epoch) for epoch in range(4, 9)]
    assert MixtureSchedule.of(Mixture(FIRST)).state_dict() == {"mixture": Mixture(FIRST).state_dict()}  # as before there were schedules


def _mixtures_of(shared: SharedMixtures, epochs, answers) -> None:
    for epoch in iter(epochs.get, None):
        answers.put(shared.at(epoch).quotas)


def test_a_process_that_runs_already_sees_what_is_added():
    shared, context = SharedMixtures(["a", "b", "c"], MixtureSchedule.of(Mixture(FIRST))), mp.get_context("fork")
    epochs, answers = context.Queue(), context.Queue()
    process = context.Process(target=_mixtures_of, args=(shared, epochs, answers))
    process.start()
    epochs.put(9)
    assert answers.get(timeout=60) == FIRST
    shared.add(MixtureSchedule.of(Mixture(FIRST)).followed_by(SECOND, first_epoch=3).newest)
    epochs.put(2), epochs.put(3), epochs.put(None)
    assert [answers.get(timeout=60), answers.get(timeout=60)] == [FIRST, SECOND]
    process.join()


def test_more_changes_than_slots_keep_the_newest():
    schedule = MixtureSchedule.of(Mixture(FIRST))
    shared = SharedMixtures(["a", "b"], schedule)
    for epoch in range(1, 200):
        schedule = schedule.followed_by((FIRST, SECOND, THIRD)[epoch % 3], first_epoch=epoch)
        shared.add(schedule.newest)
        for recent in range(max(0, epoch - 60), epoch + 2):
            assert shared.at(recent).quotas == schedule.at(recent).quotas
            assert shared.at(recent).start("a", recent) == schedule.at(recent).start("a", recent)


def test_quotas_sum_exactly_and_leave_no_group_out():
    assert quotas_of_shares({"a": 1e-6, "b": 1e-6, "c": 1.0}, 5) == {"a": 1, "b": 1, "c": 3}
    assert quotas_of_shares({"a": 0.25, "b": 0.75}, 8) == {"a": 2, "b": 6}


def test_the_pass_that_is_reached_is_that_of_a_walk():
    partition = Partition(10, ((0, 7, 10), (1, 2, 6)), 2)
    for consumer in range(3):
        walk = [number for number in range(1, 9) for part in partition.ranges(number, consumer, 3) for _ in range(*part[1:])]
        for start in range(6):
            for ahead in range(1, 12):
                offset = walk[:start].count(walk[start - 1]) if start else 0
                position = (walk[start - 1], offset) if start else (1, 0)
                assert partition.reached(position, consumer, 3, ahead) == walk[start + ahead - 1]
