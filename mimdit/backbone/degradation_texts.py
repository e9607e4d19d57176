"""Texts of degradations: the default list for ``mimdit prompts encode --by_atom``, lists in YAML, and the nearest of several texts.

Not in the paper; AutoDIR (arXiv 2310.10123) steers restoration by texts such as "a photo needs dehazing".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from mimdit.core.batch import ATOMS

DEFAULT_TEXTS: dict[str, tuple[str, ...]] = {
    "blur": ("a photo with blur", "remove the blur"),
    "noise": ("a photo with noise and grain", "remove the noise and the grain"),
    "jpeg": ("a photo with JPEG compression artifacts", "remove the JPEG compression artifacts"),
    "haze": ("a photo with haze", "remove the haze and fog"),
    "rain": ("a photo with rain", "remove the rain"),
    "raindrop": ("a photo with raindrops on the lens", "remove the raindrops on the lens"),
    "lowlight": ("a dark photo taken in low light", "brighten the dark photo"),
}
"""Texts of each of `mimdit.core.batch.ATOMS`."""

_GRAM = 3
_KEEP = r"(?:keep|leave|leaving|preserve|preserving|retain|maintain)\w*"
_REMOVE = r"(?:remov|reduc|eliminat|clean|fix|correct|get(?:ting)? rid|dehaz|denois|deblur|derain|brighten|lighten)\w*"
_NOT = r"(?:don't|do not|never|not)"
_DROPPED = (
    r"(?:the|all|any|this|its|it|everything)\b|(?:de)?(?:blur|nois|haz|rain)|grain|jpe?g|compression|artifact|block|"
    r"fog|mist|smog|streak|low[- ]?light|dark"
)
"""What follows the verb drop, not the noun: an article, or a degradation."""
_EXCEPT = r"(?:except|apart from|aside from|other than|rather than|instead of|without (?:remov|touch|chang|los|affect|harm|hurt)ing)"

_REWRITTEN = (
    (re.compile("[\u2018\u2019]"), "'"),
    (re.compile(r"\b(?:everything|anything|all)(?: else)? but\b"), "everything except"),
    (re.compile(r"\bnothing(?: else)? but\b"), "only"),
    (re.compile(rf"(?<!the )(?<!a )(?<!rain )(?<!water )\bdrop(?:ping)? (?={_DROPPED})"), "remove "),
    (re.compile(rf"\b{_NOT} {_KEEP}"), "remove"),
    (re.compile(rf"\b{_KEEP} (?:no|none of)\b"), "remove"),
    (re.compile(rf"\b{_NOT} (?:{_REMOVE}|touch|change)"), "keep"),
)
"""Expressions and what they are read as, in this order."""

_CLAUSE = re.compile(rf"[,;:.!()\n]|\s[-\u2013\u2014]+\s|\u2014|\b(?:but|yet|while|then)\b|(?=\b(?:{_KEEP}|{_REMOVE}|{_NOT}|{_EXCEPT})\b)")
_STAYS = re.compile(rf"\b(?:{_KEEP}|{_NOT}|{_EXCEPT})\b")


def clauses(text: str) -> tuple[list[str], list[str]]:
    """Return the clauses of a text, in lower case: those that say what goes, and those that say what stays.

    Clauses end at punctuation, at but, yet, while, then, and before every verb that keeps or removes. What stays is in a clause with keep,
    leave, preserve, retain, maintain, except, apart from, other than, rather than, instead of, not, never, or without removing, touching,
    changing, losing or affecting. "Everything but rain" is everything except rain, "don't remove" keeps, "leave no noise" and "drop
    the noise" remove, and "without haze" says what goes.
    """
    text = text.lower()
    for expression, meaning in _REWRITTEN:
        text = expression.sub(meaning, text)
    each = [clause for clause in _CLAUSE.split(text) if clause.strip()]
    return [clause for clause in each if not _STAYS.search(clause)], [clause for clause in each if _STAYS.search(clause)]


def read_texts(file: str) -> dict[str, tuple[str, ...]]:
    """Read texts by degradation from a YAML file, one or a list for each; ``default`` stands for `DEFAULT_TEXTS`.

    Raises:
        ValueError: The file cannot be read, names an unknown degradation, or holds something other than texts.
    """
    if file == "default":
        return DEFAULT_TEXTS
    path, remedy = Path(file), "write a line such as haze: a photo with haze for each, or give default"
    if not path.is_file():
        raise ValueError(f"by_atom={file} does not exist; {remedy}")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"by_atom={file} is no YAML ({error}); {remedy}") from error
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"by_atom={file} holds no texts by degradation; {remedy}")
    texts = {}
    for atom, given in content.items():
        if atom not in ATOMS:
            raise ValueError(f"by_atom={file}: {atom!r} is no degradation; choose from {', '.join(ATOMS)}")
        listed = [given] if isinstance(given, str) else given
        if not isinstance(listed, list) or not listed or not all(isinstance(text, str) and text.strip() for text in listed):
            raise ValueError(f"by_atom={file}: {atom} has {given!r}; give one text, or a list of texts, none of them empty")
        texts[atom] = tuple(listed)
    return texts


def nearest_text(text: str, texts: Sequence[str]) -> tuple[str, float]:
    """Return the most similar of ``texts`` and its similarity, in 0..1; the first of equally similar ones.

    The similarity is the cosine of the counts of character trigrams, in lower case, of words with a blank on each side: it depends on the
    spelling alone, not on a model, and knows no synonyms. Clauses of ``text`` that say what stays are left out; see `clauses`.

    Raises:
        ValueError: No text shares a trigram with ``text``.
    """
    wanted = _grams(" ".join(clauses(text)[0]) or text)
    similarities = [_cosine(wanted, _grams(other)) for other in texts]
    best = max(range(len(texts)), key=similarities.__getitem__)
    if similarities[best] == 0:
        raise ValueError(f"prompt {text!r} shares nothing with the cached texts; use words of {', '.join(map(repr, texts))}")
    return texts[best], similarities[best]


def _grams(text: str) -> Counter[str]:
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    return Counter(f" {word} "[start : start + _GRAM] for word in words for start in range(len(word)))


def _cosine(one: Counter[str], other: Counter[str]) -> float:
    product = sum(count * other[gram] for gram, count in one.items())
    norms = (sum(count**2 for count in grams.values()) for grams in (one, other))
    return product / max(1e-9, next(norms) * next(norms)) ** 0.5
