"""Counting the samples that training could not use, and stopping when they are too many."""


class TooManyBadSamplesError(ValueError):
    """More distinct samples than allowed could not be used; the message lists them."""


class BadSamples:
    """The distinct bad samples met so far, by their place, with the reason.

    Args:
        limit: How many distinct ones are tolerated.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reasons: dict[str, str] = {}

    def add(self, place: str, reason: str) -> bool:
        """Count a sample and return whether it was not known yet.

        Raises:
            TooManyBadSamplesError: There are more than ``limit`` now.
        """
        if place in self.reasons:
            return False
        self.reasons[place] = reason
        if len(self.reasons) > self.limit:
            listing = "\n".join(f"- {reason}" for reason in self.reasons.values())
            raise TooManyBadSamplesError(
                f"{len(self.reasons)} training samples could not be used, more than max_bad_samples={self.limit} allows. "
                f"Repair the shards, or raise max_bad_samples if the rest is enough:\n{listing}"
            )
        return True
