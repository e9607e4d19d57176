"""Parser of configs and options whose errors are a few lines, and name the nearest key that exists."""

import argparse
import difflib
import pydoc
import re
from collections.abc import Collection
from typing import Any, NoReturn, TextIO

from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

_CLUTTER = re.compile(
    r"\s*(Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|- Expected a <class 'NoneType'>"
    r"|Given value type: <class '(dict|jsonargparse.*)'>|Given value: (\{|Namespace|NestedArg).*)"
)
"""Lines of jsonargparse's error that hide the key at fault among everything that may be None."""

_OF_CLASS = re.compile(r"Problem with given class_path '(?P<path>[^']+)':\n\s*Option '(?P<key>[^']+)' is not accepted$", re.MULTILINE)
_OF_FACTORY = re.compile(r"(?P<text>Option '(?P<key>[^']+)' is not accepted)\. Got value: Namespace\(class_path='(?P<path>[^']+)'.*")
_OF_VERB = re.compile(r"Subcommand '[^']+' does not accept option '(?P<key>[^']+)'$", re.MULTILINE)
_OPTION = re.compile(r"unrecognized arguments: (?P<key>--[^\s=]+)[^?]*$")
"""Errors about a key that does not exist. A part's error passes through `Parser.error` once more in that of the whole; by then it has a
suggestion, and none of these matches."""


class Parser(LightningArgumentParser):
    """Parser whose errors are a few lines, and that remembers ``${…}`` as written."""

    unresolved: str | None = None
    """The newest dump with ``${…}``. jsonargparse dumps a config to let omegaconf resolve it, and has no other access to it before."""

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """Return the text of a config; see `unresolved`."""
        text = super().dump(*args, **kwargs)
        if "${" in text:
            self.unresolved = text
        return text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with code 2 and the lines of ``message`` that lead to the key at fault, with the nearest one that exists."""
        text = "\n".join(line for line in message.splitlines() if not _CLUTTER.fullmatch(line))
        text = _OF_CLASS.sub(lambda found: found[0] + _nearest(found["key"], _keys_of(found["path"])), text)
        text = _OF_FACTORY.sub(lambda found: found["text"] + _nearest(found["key"], _keys_of(found["path"])), text)
        text = _OF_VERB.sub(lambda found: found[0] + _nearest(found["key"], self._keys()), text)
        text = _OPTION.sub(lambda found: found[0] + _nearest(found["key"], [f"--{key}" for key in self._keys()]), text)
        super().error(text, ex)

    def print_usage(self, file: TextIO | None = None) -> None:
        """Print nothing: the usage is seventy lines, and the line after it names --help."""

    def _keys(self) -> set[str]:
        """Return the keys of this parser and of its verbs."""
        verbs = [parser for action in self._actions if isinstance(action, argparse._SubParsersAction) for parser in action.choices.values()]
        return {action.dest for parser in (self, *verbs) for action in parser._actions}


def _keys_of(class_path: str) -> list[str]:
    """Return the arguments of a class, with those that it passes on to its bases."""
    found = pydoc.locate(class_path)
    return ArgumentParser(exit_on_error=False).add_class_arguments(found, fail_untyped=False) if isinstance(found, type) else []


def _nearest(key: str, known: Collection[str]) -> str:
    """Return a suggestion for ``key``, or else for its first part if that is unknown; empty if nothing is near."""
    first = key.partition(".")[0]
    near = difflib.get_close_matches(key, known, n=1) or ([] if first in known else difflib.get_close_matches(first, known, n=1))
    return f". Did you mean {near[0]}?" if near else ""
