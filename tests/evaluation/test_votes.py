"""The file of votes: one line a vote, what a killed process leaves, and votes that do not belong together."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from mimdit.evaluation.votes import Study, Vote, append_vote, begin_votes, read_all, read_votes

STUDY = Study("first", "second", "11", "22", 3)
VOTES = [Vote(f"08Haze/{name}", "a", "b", "Zoë", f"2026-01-01T00:00:0{place}+00:00") for place, name in enumerate("xyz")]


@pytest.fixture
def path(tmp_path):
    """A file with the study's line and two votes."""
    begin_votes(tmp_path / "new/votes.jsonl", STUDY)
    for vote in VOTES[:2]:
        append_vote(tmp_path / "new/votes.jsonl", vote)
    return tmp_path / "new/votes.jsonl"


def test_what_is_appended_is_read_and_each_line_is_json(path):
    found = begin_votes(path, STUDY)
    assert (found.study, found.votes, found.remarks) == (STUDY, VOTES[:2], [])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records[0]["a"] == "first" and records[1]["choice"] == "a" and VOTES[0].group == "08Haze"


def test_a_vote_is_in_the_file_of_a_process_that_is_killed_after_it(path):
    code = (
        "import os, pathlib, sys; from mimdit.evaluation.votes import Vote, append_vote;"
        "append_vote(pathlib.Path(sys.argv[1]), Vote('z', 'tie', 'a', 'v', 't')); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -9
    assert read_votes(path).votes[-1] == Vote("z", "tie", "a", "v", "t")


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_truncated_last_line_is_ignored_with_a_remark_and_the_next_vote_is_whole(path, cut):
    os.truncate(path, path.stat().st_size - 1 - cut)
    found = read_votes(path)
    assert found.votes == VOTES[:1] and "is not whole" in found.remarks[0]
    append_vote(path, VOTES[2])
    assert read_votes(path).votes == [VOTES[0], VOTES[2]] and read_votes(path).remarks == []


def test_a_last_line_without_its_newline_counts(path):
    os.truncate(path, path.stat().st_size - 1)
    assert read_votes(path).votes == VOTES[:2]
    append_vote(path, VOTES[2])
    assert read_votes(path).votes == VOTES


@pytest.mark.parametrize("line", ['{"image": "x"', '{"image": "x"}', '["a"]', json.dumps(vars(replace(VOTES[0], choice="c")))])
def test_another_damaged_line_is_named(path, line):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match="line 3 of .*votes.jsonl is no vote"):
        read_votes(path)


@pytest.mark.parametrize("content", ["", "hello\n", "{}\n"])
def test_another_file_is_refused_and_kept(tmp_path, content):
    (tmp_path / "votes.jsonl").write_text(content)
    with pytest.raises(ValueError, match="does not begin as a file of votes"):
        begin_votes(tmp_path / "votes.jsonl", STUDY)
    assert (tmp_path / "votes.jsonl").read_text() == content


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pixels_b": "33"}, "whose pixels are not those"),
        ({"pixels_a": "22", "pixels_b": "11"}, "exchange the two"),
        ({"seed": 1}, "begun with seed=0, not 1"),
    ],
)
def test_votes_on_other_images_are_not_mixed(path, changed, message):
    with pytest.raises(ValueError, match=message):
        begin_votes(path, replace(STUDY, **changed))


def test_a_study_continues_under_other_names_of_its_folders(path):
    assert begin_votes(path, replace(STUDY, a="moved")).votes == VOTES[:2]


def test_the_last_of_several_votes_by_one_voter_on_one_image_counts(path):
    again = replace(VOTES[0], choice="tie")
    append_vote(path, again)
    found = read_votes(path)
    assert found.votes == [VOTES[1], again] and "the last counts" in found.remarks[0]


def test_several_files_are_one(path, tmp_path):
    begin_votes(tmp_path / "more.jsonl", replace(STUDY, seed=5))
    for vote in (replace(VOTES[0], voter="other"), replace(VOTES[1], choice="tie", time="2026-01-02T00:00:00+00:00")):
        append_vote(tmp_path / "more.jsonl", vote)
    found = read_all([path, tmp_path / "more.jsonl"])
    assert [(vote.voter, vote.choice) for vote in found.votes] == [("Zoë", "a"), ("other", "a"), ("Zoë", "tie")]
    assert "are in several files (1)" in found.remarks[0]
    begin_votes(tmp_path / "else.jsonl", replace(STUDY, pixels_a="44"))
    with pytest.raises(ValueError, match="else.jsonl holds votes on 3 images"):
        read_all([path, tmp_path / "else.jsonl"])
