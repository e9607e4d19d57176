"""Counting the samples and shards that training could not use, and stopping when they are too many."""


class TooManyBadSamplesError(ValueError):
    """More distinct samples, or shards, than allowed could not be used; the message lists them."""


class BadSamples:
    """The distinct bad samples and lost shards met so far, by their place, with the reason.

    Args:
        limit: How many distinct samples are tolerated.
        shard_limit: How many distinct shards that cannot be opened or read.
    """

    def __init__(self, limit: int, shard_limit: int) -> None:
        self.limit, self.shard_limit = limit, shard_limit
        self.reasons: dict[str, str] = {}
        """Of samples."""
        self.lost_shards: dict[str, str] = {}
        """Of shards: all their samples are passed over, until they can be read again."""

    def add(self, place: str, reason: str, whole_shard: bool) -> bool:
        """Count a sample, or a whole shard, and return whether it was not known yet.

        Raises:
            TooManyBadSamplesError: There are more than the limit now.
        """
        known = self.lost_shards if whole_shard else self.reasons
        if place in known:
            return False
        known[place] = reason
        if len(known) > (self.shard_limit if whole_shard else self.limit):
            what, name = ("shards", "max_lost_shards") if whole_shard else ("samples", "max_bad_samples")
            listing = "\n".join(f"- {reason}" for reason in known.values())
            limit = self.shard_limit if whole_shard else self.limit
            raise TooManyBadSamplesError(
                f"{len(known)} training {what} could not be used, more than {name}={limit} allows. "
                f"Repair the shards, or raise {name} if the rest is enough:\n{listing}"
            )
        return True
