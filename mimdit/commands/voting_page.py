"""Page of ``mimdit votes collect``: two results of unknown runs side by side, and a button for each answer."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from datamodules.images import UnreadableImageError
from mimdit.commands.ballot import Answer, Ballot, voter_named
from mimdit.commands.paired_images import read_displayed
from mimdit.commands.web_page import import_gradio

if TYPE_CHECKING:
    import gradio

_ABOUT = "Which restoration is better? The sides are random. Pick “no difference” only if you cannot tell."
_BUTTONS: dict[Answer, str] = {"left": "left is better", "neither": "no difference", "right": "right is better"}

SECONDS_TO_LOOK = 0.3
"""A vote sooner after its images is the second half of a double click."""

_CACHE_SECONDS = (3600, 86400)
"""How often the copies of shown images are looked through, and the age at which they are removed; all are at the end."""

_NUM_OUTPUTS = 7
"""State, progress, left, degraded and right image, and the columns of voting and of the entrance."""


@dataclass(frozen=True)
class _Shown:
    """Voter and image of a page, and the time of its images (monotonic seconds)."""

    voter: str
    image: str
    since: float


@dataclass(frozen=True)
class _Visits:
    """Answers to what visitors do; each is the list of values of `page`'s outputs.

    Attributes:
        ballot: The pairs and the file of the votes.
        voter: Name of the only voter; None if the page has a field for it.
        with_degraded: If true, the degraded image is shown.
        gradio: The module.
    """

    ballot: Ballot
    voter: str | None
    with_degraded: bool
    gradio: ModuleType

    def show(self, name: str) -> list[Any]:
        """Show a voter the next pair, or the end."""
        pair, done = self.ballot.next_pair(name), self.ballot.number_done(name)
        progress = f"{done} of {len(self.ballot)} done" + (f", {name}" if self.voter is None else "")
        hidden, visible = self.gradio.Column(visible=False), self.gradio.Column(visible=True)
        if pair is None:
            return [None, f"{progress}. Thank you, that was the last one.", None, None, None, hidden, hidden]
        try:
            left, right = map(read_displayed, self.ballot.sides(name, pair))
            degraded = read_displayed(pair.degraded) if self.with_degraded and pair.degraded else None
        except (UnreadableImageError, OSError, MemoryError) as error:
            print(f"{pair.name}: {error}", file=sys.stderr)  # not on the page: it can name the run
            raise self._problem("An image can no longer be read; the terminal names it.") from error
        return [_Shown(name, pair.name, time.monotonic()), progress, left, degraded, right, visible, hidden]

    def begin(self, name: str | None) -> list[Any]:
        """Show the first pair to a voter who has given a name."""
        try:
            return self.show(voter_named(name or ""))
        except ValueError as error:
            raise self._problem(str(error)) from error

    def vote(self, shown: _Shown, answer: Answer) -> list[Any]:
        """Cast a vote and show the next pair."""
        if time.monotonic() - shown.since < SECONDS_TO_LOOK:
            self.gradio.Warning("That click came with the new images and does not count.")
            return [self.gradio.skip()] * _NUM_OUTPUTS
        try:
            if not self.ballot.cast(shown.voter, shown.image, answer):
                self.gradio.Info("That image had your vote already.")
        except OSError as error:
            print(f"{self.ballot.path}: {error}", file=sys.stderr)
            raise self._problem(f"The vote could not be written ({error.strerror}).") from error
        return self.show(shown.voter)

    def _problem(self, text: str) -> Exception:
        return self.gradio.Error(text, print_exception=False)


def page(ballot: Ballot, *, voter: str | None = None, with_degraded: bool = False) -> gradio.Blocks:
    """Return the page of a ballot.

    Nothing that it sends names a run: images are decoded and sent as plain PNG files, called alike, under digests of their content.

    Args:
        ballot: The pairs and the file of the votes.
        voter: Name of the only voter; None if the page has a field for it.
        with_degraded: If true, the degraded image is shown in the middle; every pair must have one.

    Raises:
        ValueError: gradio is missing or too old.
    """
    gradio = import_gradio("votes collect")
    visits = _Visits(ballot, voter, with_degraded, gradio)
    with gradio.Blocks(title="Blind comparison", analytics_enabled=False, fill_width=True, delete_cache=_CACHE_SECONDS) as blocks:
        shown = gradio.State(None)
        gradio.Markdown(f"# Blind comparison\n{_ABOUT}")
        with gradio.Column(visible=voter is None) as entrance:
            named = gradio.Textbox(label="your name", elem_id="voter", info="The same name continues where you stopped.")
            start = gradio.Button("Start", variant="primary", elem_id="start")
        progress = gradio.Markdown(elem_id="progress")
        with gradio.Column(visible=False) as voting:
            options = {"type": "pil", "format": "png", "interactive": False, "buttons": ["fullscreen"]}
            with gradio.Row():
                left = gradio.Image(label="left", elem_id="left", **options)
                degraded = gradio.Image(label="degraded", elem_id="degraded", visible=with_degraded, **options)
                right = gradio.Image(label="right", elem_id="right", **options)
            with gradio.Row():
                buttons = {answer: gradio.Button(text, elem_id=f"vote_{answer}") for answer, text in _BUTTONS.items()}
        outputs = [shown, progress, left, degraded, right, voting, entrance]
        for answer in _BUTTONS:
            buttons[answer].click(partial(visits.vote, answer=answer), [shown], outputs, show_progress="hidden")
        gradio.on([start.click, named.submit], visits.begin, [named], outputs, show_progress="hidden")
        if voter is not None:
            blocks.load(partial(visits.show, voter), None, outputs, show_progress="hidden")
    return blocks
