"""FoundIR's test set: released as folders, archives or a list, or converted to shards (arXiv 2412.01427)."""

from collections import Counter
from functools import partial
from typing import Any

from datamodules.decoding import check_sizes, decode_image
from datamodules.degradations.groups import atoms_of_group
from datamodules.foundir import missing_test_pairs
from datamodules.sources.listing import Listing, SourcePair, list_foundir
from datamodules.sources.members import MemberReader
from datamodules.test_sets.base import Benchmark, Contents, Entry, Images


class FoundIR(Benchmark):
    """``<group>/{GT,LQ}``, ``{GT,LQ}/<group>``, archives ``<group>.zip``, or a ``.txt`` of "GT, LQ" lines: whichever is there.

    Args:
        root: The folder, or the list.
        **options: As in `Benchmark`.
    """

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)

    def find(self) -> Contents:
        """List the pairs and the rejects of the source."""
        listing = list_foundir(self.root)
        return Contents(
            [Entry(pair.group, pair.stem, atoms_of_group(pair.group), partial(_load, listing, pair)) for pair in listing.pairs],
            [f"{reject.group}/{reject.name}: {reject.reason}" for reject in listing.rejects],
        )

    def protocol(self) -> dict[str, Any]:
        """Also how the pairs differ from the published test set's: its figures do not compare with published ones then."""
        difference = missing_test_pairs(Counter(entry.group for entry in self.contents.entries))
        return super().protocol() | ({"differs_from_published": difference} if difference else {})


def _load(listing: Listing, pair: SourcePair) -> Images:
    with MemberReader(listing.root, listing.files) as reader:
        lq, gt = (decode_image(reader.read(member), f"{member.name} of {listing.root}") for member in (pair.lq, pair.gt))
    check_sizes(lq, gt, f"{pair.lq.name} and {pair.gt.name} of {listing.root}")
    return lq, gt
