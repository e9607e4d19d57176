"""Who sees what next, on which side, and where the vote goes."""

import re
import threading

import pytest

from mimdit.commands.ballot import Ballot, voter_named
from mimdit.commands.paired_images import Pair
from mimdit.evaluation.votes import Study, read_votes

NAMES = [f"{place:03}" for place in range(400)]


@pytest.fixture
def opened(tmp_path):
    """Return a ballot of pairs by names, on the same file at each call."""

    def open_ballot(names: list[str] = NAMES, seed: int = 0) -> Ballot:
        pairs = [Pair(name, tmp_path / "a" / name, tmp_path / "b" / name) for name in names]
        return Ballot(pairs, tmp_path / f"votes{seed}.jsonl", Study("a", "b", "1", "2", len(names), seed))

    return open_ballot


def order(ballot: Ballot, voter: str, number: int) -> list[str]:
    seen = []
    for _ in range(number):
        pair = ballot.next_pair(voter)
        seen.append(pair.name)
        assert ballot.cast(voter, pair.name, "neither")
    return seen


def test_sides_are_balanced_over_images_and_differ_between_voters_and_seeds(opened):
    drawn = {
        (seed, voter): [ballot.left_run(voter, name) for name in NAMES]
        for seed, ballot in ((0, opened()), (1, opened(seed=1)))
        for voter in ("v", "w")
    }
    for sides in drawn.values():
        assert 160 <= sides.count("a") <= 240  # four standard deviations of a fair coin
    pairs = [(first, second) for first in drawn for second in drawn if first < second]
    for first, second in pairs:
        assert 160 <= sum(x == y for x, y in zip(drawn[first], drawn[second])) <= 240
    assert drawn[0, "v"] == [opened().left_run("v", name) for name in NAMES]


def test_the_order_is_random_complete_and_continues_after_a_restart(opened):
    names = NAMES[:12]
    alone = order(opened(names, seed=1), "v", 12)
    assert sorted(alone) == names != alone
    first = order(opened(names), "v", 5)
    others = order(opened(names), "w", 12)
    again = opened(names)
    assert again.number_done("v") == 5 and again.number_done("w") == 12 and again.next_pair("w") is None
    rest = order(again, "v", 7)
    assert sorted(first + rest) == names and others != first + rest and again.next_pair("v") is None


@pytest.mark.parametrize("answer", ["left", "right", "neither"])
def test_an_answer_is_written_as_the_run_on_that_side(opened, answer):
    ballot = opened(NAMES[:20])
    for name in NAMES[:20]:
        ballot.cast("v", name, answer)
    for vote in read_votes(ballot.path).votes:
        left, right = ballot.sides("v", Pair(vote.image, ballot.path / "a", ballot.path / "b"))
        assert vote.left == left.name and vote.choice == {"left": left.name, "right": right.name, "neither": "tie"}[answer]
        assert vote.voter == "v" and re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", vote.time)


def test_an_image_gets_one_vote_of_a_voter_however_many_windows_click(opened):
    ballot = opened(NAMES[:1])
    threads = [threading.Thread(target=ballot.cast, args=("v", NAMES[0], "left")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ballot.path.read_text().splitlines()) == 2 and not ballot.cast("v", NAMES[0], "right")


def test_a_vote_that_cannot_be_written_does_not_count(opened):
    ballot = opened(NAMES[:3])
    content = ballot.path.read_bytes()
    ballot.path.unlink()
    with pytest.raises(FileNotFoundError):
        ballot.cast("v", NAMES[0], "left")
    ballot.path.write_bytes(content)
    assert ballot.number_done("v") == 0 and ballot.cast("v", NAMES[0], "left")


def test_names_of_voters_are_trimmed_and_neither_empty_nor_long():
    assert voter_named("  Ann   Lee ") == "Ann Lee"
    for name in ("  ", "x" * 61):
        with pytest.raises(ValueError, match="a voter's name has 1 to 60 characters"):
            voter_named(name)
