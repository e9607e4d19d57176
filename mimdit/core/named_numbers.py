"""Numbers by name on the command line: ``haze=0,channel=2``."""

from __future__ import annotations


def parse_named_numbers(text: str, *, option: str, example: str) -> dict[str, float]:
    """Parse numbers by name, separated by commas.

    Args:
        text: Such as ``haze=0,channel=2``.
        option: Name of the option, for error messages.
        example: Valid form, for error messages.

    Raises:
        ValueError: A part is not ``name=number``, or a name comes twice.
    """
    numbers: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"{option} {part!r} cannot be read; write {example}") from None
        if name.strip() in numbers:
            raise ValueError(f"{option} has {name.strip()} twice; give it one value")
        numbers[name.strip()] = number
    return numbers
