"""Share, interval and sign test of votes, against closed forms."""

import math
from statistics import NormalDist

import pytest

from mimdit.evaluation.preference import Preference, as_json, left_preference, preference_table, preferences
from mimdit.evaluation.votes import Study, Vote, Votes

COUNTS = [(0, 1), (5, 0), (3, 3), (9, 1), (17, 42), (600, 500)]


@pytest.mark.parametrize(("wins", "losses"), COUNTS)
def test_the_sign_test_is_twice_the_binomial_tail(wins, losses):
    number = wins + losses
    tail = sum(math.comb(number, k) for k in range(min(wins, losses) + 1)) / 2**number
    assert Preference("", wins, losses, 7).p_value == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


@pytest.mark.parametrize(("wins", "losses"), COUNTS)
def test_the_interval_is_wilsons(wins, losses):
    z, n, share = NormalDist().inv_cdf(0.975), wins + losses, wins / (wins + losses)
    center, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    expected = [(center + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
    assert Preference("", wins, losses, 7).interval == pytest.approx(expected, abs=1e-12)


def test_ties_alone_have_no_share():
    only = Preference("x", 0, 0, 4)
    assert only.share is None and only.interval is None and only.p_value is None
    assert only.as_dict() == {"name": "x", "wins": 0, "losses": 0, "ties": 4, "share": None, "low": None, "high": None, "p_value": None}


def vote(image: str, choice: str, voter: str = "v", left: str = "a") -> Vote:
    return Vote(image, choice, left, voter, "2026-01-01T00:00:00+00:00")


def counted(votes: list[Vote]) -> list[tuple]:
    return [(each.name, each.wins, each.losses, each.ties) for each in preferences(votes)]


def test_groups_are_first_sub_folders_and_several_voters_add_the_majority_of_each_image():
    votes = [vote("haze/deep/1", "a"), vote("haze/2", "b"), vote("rain/1", "tie")]
    assert counted(votes) == [("all votes", 1, 1, 1), ("haze", 1, 1, 0), ("rain", 0, 0, 1)]
    votes += [vote("haze/2", "b", "w"), vote("haze/2", "a", "u"), vote("rain/1", "a", "w"), vote("haze/deep/1", "b", "w")]
    assert counted(votes)[-1] == ("images, by majority", 1, 1, 1)  # rain/1 for A, haze/2 for B, haze/deep/1 even
    assert counted([vote("1", "a"), vote("2", "b")]) == [("all votes", 1, 1, 0)]


def test_a_habit_of_one_side_is_told_from_a_preference():
    votes = [vote(str(n), side, left=side) for n, side in enumerate("ababab")] + [vote("t", "tie")]
    assert (left_preference(votes).wins, left_preference(votes).decided) == (6, 6)
    assert preferences(votes)[0].share == 0.5


def test_table_and_json_hold_the_same_numbers():
    votes = [vote(f"haze/{n}", "a" if n < 9 else "b") for n in range(10)] + [vote("rain/x", "tie")]
    found = Votes(Study("runs/one", "runs/two", "", "", 12), votes, [])
    table, content = preference_table(found), as_json(found)
    assert "A = runs/one, B = runs/two\nvotes: 11, voters: 1, images: 11 of 12" in table
    assert "| all votes | 9 | 1 | 1 | 90.0 % [59.6, 98.2] | 0.0215 |" in table and "| rain | 0 | 0 | 1 | - | - |" in table
    assert content["preferences"][0] == {
        "name": "all votes", "wins": 9, "losses": 1, "ties": 1, "share": 0.9,
        "low": pytest.approx(0.596, abs=1e-3), "high": pytest.approx(0.982, abs=1e-3), "p_value": pytest.approx(22 / 1024),
    }  # fmt: skip
