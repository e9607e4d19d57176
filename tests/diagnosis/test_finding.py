"""Findings of many ranks as a few lines."""

from mimdit.diagnosis import Finding, Level, merged, render

NAMES = [f"rank {rank} (node{rank})" for rank in range(6)]


def test_what_all_ranks_found_is_one_line_and_what_one_found_names_it():
    well, full = Finding.ok("folder", "/runs is written"), Finding.failed("folder", "/runs cannot be written", "free its quota")
    by_rank = [[Finding.ok("software", "torch 2"), well]] * 5 + [[Finding.ok("software", "torch 2"), full]]
    lines = merged(by_rank, NAMES)
    assert [(line.check, line.level) for line in lines] == [("software", Level.OK), ("folder", Level.OK), ("folder", Level.FAILED)]
    assert lines[0].found == "torch 2"
    assert lines[1].found == "/runs is written (rank 0 (node0), rank 1 (node1), rank 2 (node2), rank 3 (node3) and 1 more)"
    assert lines[2].found == "/runs cannot be written (rank 5 (node5))" and lines[2].remedy == "free its quota"


def test_healthy_ranks_that_found_different_amounts_are_one_line():
    by_rank = [[Finding.ok("memory", f"{rank} GiB free")] for rank in range(6)]
    assert [line.found for line in merged(by_rank, NAMES)] == ["0 GiB free"]


def test_a_line_says_level_check_finding_and_remedy():
    text = render([Finding.ok("cores", "2"), Finding.warning("shared memory", "0.06 GiB", "more of it")])
    assert text.splitlines() == ["ok       cores          2", "warning  shared memory  0.06 GiB -> more of it"]
