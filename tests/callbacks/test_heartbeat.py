"""Who is behind is read from where everybody is."""

import os

from callbacks.heartbeat import Pulse, pulse_path, read_pulses, told


def test_the_one_behind_is_named():
    others = [Pulse(rank, 121, 122, 1, "in the backward pass") for rank in (0, 1, 2)]
    behind = Pulse(3, 120, 121, 3, "waiting for the next batch")
    sentence = told([*others, behind], [])
    assert sentence.startswith("Behind is rank 3 after step 120, waiting for the next batch, while the others wait: ranks 0, 1, 2 after ")
    assert told(others, [3]).startswith("All that report are at one place: ranks 0, 1, 2 after step 121, in the backward pass. Not heard")


def test_many_ranks_are_counted():
    pulses = [Pulse(rank, 5, 6, 1, "here") for rank in range(1000)]
    assert told(pulses, []) == "All that report are at one place: ranks 0, 1, 2, 3, 4, 5, 6, 7 and 992 more after step 5, here."


def test_files_tell_who_is_silent(tmp_path):
    for rank in (0, 1, 2):
        Pulse(rank, rank, 7, 1, "there").write(tmp_path)
    written = pulse_path(tmp_path, 0).stat().st_mtime
    os.utime(pulse_path(tmp_path, 1), (written - 60, written - 60))
    pulses, silent = read_pulses(tmp_path, 4, oldest=30)
    assert [pulse.step for pulse in pulses] == [0, 1, 2] and silent == [1, 3]
