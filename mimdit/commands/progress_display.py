"""Display of progress over several images: a bar on a terminal, one line an image elsewhere."""

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from mimdit.commands.forecast import Forecast, in_words

_TRIAL = 0.05
"""Share of the pixels that the forecast counts for: a first small image says little about the others."""

_BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} megapixels [{elapsed}, {remaining} left]"


class ProgressDisplay:
    """Progress on stderr, weighed by the measured cost of the work.

    Args:
        images: Number of images.
        pixels: Pixels of all images together.
        forecast: Course of the work on an image; None to count all reported work alike.
    """

    def __init__(self, images: int, pixels: int, forecast: Forecast | None = None) -> None:
        self.images, self.pixels = images, pixels
        self.forecast = forecast or Forecast(0.0)
        self._done = self._number = 0
        self._source, self._size, self._fraction = Path(), 0, 0.0
        self._began = self._image_began = time.monotonic()
        counted = _TRIAL * pixels if self.forecast.pace > 0 else 0.0
        self._trial = counted, counted * self.forecast.pace / 1e6
        # smoothing=0: the average speed since the start. The latest speed alone would jump from one part of the work to the next.
        shown = {"unit_scale": 1e-6, "bar_format": _BAR, "dynamic_ncols": True, "smoothing": 0}
        self._bar = _TrialBar(self._trial, total=pixels, disable=not sys.stderr.isatty(), file=sys.stderr, **shown)

    def __enter__(self) -> "ProgressDisplay":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def begin(self, source: Path, pixels: int) -> None:
        """Start an image of so many pixels."""
        self._source, self._size, self._fraction = source, pixels, 0.0
        self._number += 1
        self._image_began = time.monotonic()
        self._bar.set_description(source.name[:32], refresh=True)

    def advance(self, fraction: float) -> None:
        """Count a fraction of the image's work, as `Restorer.restore` reports it."""
        self._fraction = min(1.0, self._fraction + fraction)  # the fractions need not add up to exactly 1
        self._bar.update(self._done + round(self.forecast.share_of_time(self._fraction) * self._size) - self._bar.n)

    def remark(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        tqdm.write(text, file=sys.stderr)

    def end(self, *, failed: bool = False) -> None:
        """End the image; without a terminal, print its line."""
        self._done += self._size
        self._bar.update(self._done - self._bar.n)
        if self._bar.disable:
            now = time.monotonic()
            counted, seconds = self._trial
            left = (seconds + now - self._began) * (self.pixels - self._done) / max(1, counted + self._done)
            outcome = "failed" if failed else f"{self._size / 1e6:.1f} megapixels in {in_words(now - self._image_began)}"
            rest = f", about {in_words(left)} left" if self._number < self.images else ""
            print(f"{self._number} of {self.images}: {self._source}: {outcome}{rest}", file=sys.stderr, flush=True)


class _TrialBar(tqdm):
    """A bar whose time left counts a trial, the pixels and seconds of the forecast, as work that is done."""

    def __init__(self, trial: tuple[float, float], **options: Any) -> None:
        self._trial = trial  # drawn at once
        super().__init__(**options)

    @property
    def format_dict(self) -> dict[str, Any]:
        """Return the values to draw."""
        values = dict(super().format_dict)
        counted, seconds = self._trial
        if counted and values["elapsed"]:
            values["rate"] = (counted + values["n"]) / (seconds + values["elapsed"])
        return values
