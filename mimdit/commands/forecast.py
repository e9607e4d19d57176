"""Forecast of the time that restoring takes, and of its course, from a trial."""

import time
from dataclasses import dataclass, replace

import numpy as np

from mimdit.restorer.pixels import restore_pixels
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sampling import SamplingSettings

_MIN_SIDE, _MAX_SIDE = 64, 256


@dataclass(frozen=True)
class Forecast:
    """Measured cost of a restoration.

    Args:
        pace: Seconds per megapixel.
        course: Shares of the time that have passed at fractions of the work as `Restorer.restore` reports it, both in 0..1 and ascending.
            The time after the last report, for decoding, is not in it.
    """

    pace: float
    course: tuple[tuple[float, float], ...] = ((0.0, 0.0), (1.0, 1.0))

    def share_of_time(self, fraction: float) -> float:
        """Return the share of the time, in 0..1, that has passed when ``fraction`` of the reported work is done."""
        fractions, shares = zip(*self.course, strict=True)
        return float(np.interp(fraction, fractions, shares))


def forecast(restorer: Restorer, megapixels: float, settings: SamplingSettings | None = None, *, in_pieces: bool = False) -> Forecast:
    """Measure a trial on a square of noise, a twentieth of ``megapixels`` large, 64 to 256 pixels a side.

    A smaller, untimed square precedes it: first calls are slower. For images ``in_pieces`` a second trial, in four pieces, gives the course
    within the conditioner, which reports only its end otherwise.
    """
    side = int(min(_MAX_SIDE, max(_MIN_SIDE, (megapixels * 1e6 / 20) ** 0.5)))
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    whole = None if settings is None else replace(settings, tile=None)
    restore_pixels(restorer, pixels[:_MIN_SIDE, :_MIN_SIDE], whole)
    seconds, course = _timed(restorer, pixels, whole)
    if in_pieces and settings is not None and len(course) > 1:
        course = _refined(course, _timed(restorer, pixels, replace(settings, tile=side // 2))[1])
    return Forecast(seconds / (side**2 / 1e6), tuple(course))


def _timed(restorer: Restorer, pixels: np.ndarray, settings: SamplingSettings | None) -> tuple[float, list[tuple[float, float]]]:
    """Restore ``pixels``; return the seconds and the course, as in `Forecast`.

    On a CPU the course is that of the process's own time: other processes would distort the shares of so short a trial.
    """
    clock = time.process_time if restorer.device.type == "cpu" else time.perf_counter
    reports: list[tuple[float, float]] = [(0.0, 0.0)]
    began, began_course = time.perf_counter(), clock()

    def report(fraction: float) -> None:
        reports.append((min(1.0, reports[-1][0] + fraction), clock() - began_course))

    restore_pixels(restorer, pixels, settings, progress=report)
    whole = max(1e-9, clock() - began_course)
    return time.perf_counter() - began, [(fraction, passed / whole) for fraction, passed in reports]


def _refined(course: list[tuple[float, float]], finer: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return ``course`` with the points of ``finer`` up to its first report, scaled to the time of that report."""
    end, share = course[1]
    inside = [(fraction, passed) for fraction, passed in finer if fraction < end - 1e-6]
    scale = share / max(1e-9, next(passed for fraction, passed in finer if fraction >= end - 1e-6))
    return [(fraction, passed * scale) for fraction, passed in inside] + course[1:]


def in_words(seconds: float) -> str:
    """Return a duration, rounded, in s, min or h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
