"""``mimdit votes …``: compare the images of two runs blind, on a local web page, and count the votes."""

import sys
from json import dumps
from pathlib import Path

from mimdit.commands.ballot import Ballot, voter_named
from mimdit.commands.paired_images import digests, pair_images
from mimdit.commands.voting_page import page
from mimdit.commands.web_page import import_gradio, serve
from mimdit.evaluation.preference import as_json, preference_table
from mimdit.evaluation.votes import Study, read_all


def collect(
    a: str,
    b: str,
    *,
    votes: str,
    degraded: str | None = None,
    voter: str | None = None,
    seed: int = 0,
    host: str = "127.0.0.1",
    port: int = 7860,
) -> None:
    """Serve a local web page on which people vote blind between two runs' images.

    A page shows two results side by side, in an order and with sides that are random for each voter, between them the degraded image, and
    takes "left is better", "right is better" or "no difference". Each vote is appended to the file at once; the same call continues. All
    images are read once at the start. Needs gradio: pip install '.[demo]'. Stop it with Ctrl-C. Not in the paper: a two-alternative forced
    choice (Zhang et al., CVPR 2018, arXiv 1801.03924) with a third answer (Jenadeleh et al., 2023, arXiv 2305.00220).

    Args:
        a: Folder of run A's images, as mimdit restore writes them; name=folder names the run.
        b: Folder of run B's images, of the same names in the same sub-folders. A first sub-folder is a group of its own in the report.
        votes: File of the votes, JSON lines.
        degraded: Folder of the degraded images of the same names, to show them too.
        voter: Name of the only voter; by default the page asks for it, and several people may vote.
        seed: Seed of the order and of the sides.
        host: Address to listen on; 0.0.0.0 also accepts other machines.
        port: Port to listen on; 0 for any free one.

    Raises:
        ValueError: Names are in only one folder, images of one name differ in size, one cannot be read, or the file holds other votes.
    """
    import_gradio("votes collect")
    name = None if voter is None else voter_named(voter)
    (name_a, folder_a), (name_b, folder_b) = map(_named, (a, b))
    pairs = pair_images(folder_a, folder_b, None if degraded is None else Path(degraded))
    pixels_a, pixels_b = digests(pairs)
    if pixels_a == pixels_b:
        raise ValueError(f"{folder_a} and {folder_b} hold equal images; give the results of two runs")
    ballot = Ballot(pairs, Path(votes), Study(name_a, name_b, pixels_a, pixels_b, len(pairs), seed))
    _print_remarks(ballot.remarks)
    print(f"{len(pairs)} pairs, votes in {votes}" + ("" if name is None else f", {ballot.number_done(name)} of {name} there already"))
    serve(page(ballot, voter=name, with_degraded=degraded is not None), host=host, port=port)


def report(votes: list[str], *, json: bool = False) -> None:
    """Count the votes for two runs: wins, losses, ties, Wilson's interval, sign test.

    Prints run A's share of the decided votes with its 95 % Wilson score interval, and the two-sided p value of the exact binomial sign
    test: for all votes, for each group (the images' first sub-folders), and, with several voters, for the images by their majority. Votes
    on one image are not independent of each other, the majorities are. P values are not corrected for the number of groups. Not in the
    paper.

    Args:
        votes: Files of mimdit votes collect, on the same images.
        json: If true, print JSON.

    Raises:
        ValueError: A file is damaged, or its images are not those of the first.
    """
    found = read_all([Path(path) for path in votes])
    _print_remarks(found.remarks)
    print(dumps(as_json(found), indent=2) if json else preference_table(found), end="\n" if json else "")


def _named(word: str) -> tuple[str, Path]:
    """Return name and folder of ``name=folder``, or the folder as its own name; a folder may have an equals sign."""
    name, equals, place = word.partition("=")
    return (name, Path(place)) if equals and not Path(word).is_dir() else (word, Path(word))


def _print_remarks(remarks: list[str]) -> None:
    for remark in remarks:
        print(f"warning: {remark}", file=sys.stderr)
