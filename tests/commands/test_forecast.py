"""The forecast of a restoration: pace and course, as a clock measures them, and their display."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mimdit.commands import forecast as forecasts
from mimdit.commands import progress_display
from mimdit.commands.forecast import Forecast, forecast
from mimdit.commands.progress_display import ProgressDisplay
from mimdit.restorer.sampling import SamplingSettings

SETTINGS = SamplingSettings(steps=2, start="noise", sigma_start=1.0, sampler="euler", guidance=1.0, seed=0, tile=512)


class Clocked:
    """A restorer that reports 8 passes of a conditioner and 2 evaluations alike, and a clock on which they cost what they cost here."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.now = 0.0

    def process_time(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return 3 * self.now  # two other processes compute, too

    def restore(self, images: torch.Tensor, settings: SamplingSettings, *, progress=lambda fraction: None) -> torch.Tensor:
        pixels = images[0, 0].numel()
        passes = [0.01, 0.04] * 4
        if settings.tile is None:
            self.now += pixels * 1e-5 * sum(passes)
            progress(0.8)
        for cost in passes if settings.tile is not None else ():
            self.now += pixels * 1e-5 * 2 * cost  # pieces overlap
            progress(0.1)
        for _ in range(2):
            self.now += pixels * 1e-5 * 0.35
            progress(0.1)
        self.now += pixels * 1e-5 * 0.1
        return images


@pytest.fixture
def clocked(monkeypatch) -> Clocked:
    made = Clocked()
    monkeypatch.setattr(forecasts, "time", made)
    return made


def test_the_course_is_the_measured_one(clocked):
    found = forecast(clocked, 1.0, SETTINGS)
    assert found.pace == pytest.approx(30.0)
    assert [found.share_of_time(done) for done in (0.0, 0.4, 0.8, 0.9, 1.0)] == pytest.approx([0, 0.1, 0.2, 0.55, 0.9])


def test_pieces_give_the_course_within_the_conditioner(clocked):
    found = forecast(clocked, 1.0, SETTINGS, in_pieces=True)
    assert found.pace == pytest.approx(30.0)
    assert [found.share_of_time(done) for done in (0.1, 0.2, 0.3, 0.8, 0.9, 1.0)] == pytest.approx([0.01, 0.05, 0.06, 0.2, 0.55, 0.9])


def test_the_time_left_falls_evenly_within_an_image(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress_display, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("tqdm.std.time", lambda: clock.now)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    ends = []
    with ProgressDisplay(1, 1_000_000, Forecast(100.0, ((0.0, 0.0), (0.8, 0.2), (0.9, 0.55), (1.0, 0.9)))) as display:
        display.begin(Path("a.png"), 1_000_000)
        for seconds in [2.5] * 8 + [35] * 2:
            clock.now += seconds
            display.advance(0.1)
            minutes, rest = re.search(r"(\d+):(\d+) left", str(display._bar)).groups()
            ends.append(clock.now + 60 * int(minutes) + int(rest))
        display.end()
    assert ends == pytest.approx([100] * 10, abs=1)  # where all work counted alike, the first was 25 s and the last but one 125 s


@pytest.mark.parametrize("terminal", [False, True])
def test_a_tiny_first_image_does_not_set_the_time_left(monkeypatch, capsys, terminal):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress_display, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("tqdm.std.time", lambda: clock.now)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with ProgressDisplay(4, 3_000_001, Forecast(10.0)) as display:
        for pixels, seconds, left in ((1, 0.25, 35), (1_000_000, 20, 38), (1_000_000, 20, 19)):
            display.begin(Path("a.png"), pixels)
            clock.now += seconds
            display.end()
            if terminal:
                minutes, rest = re.search(r"(\d+):(\d+) left", str(display._bar)).groups()
                assert 60 * int(minutes) + int(rest) == pytest.approx(left, abs=1)
            else:
                said = int(re.search(r"about (\d+) s left", capsys.readouterr().err)[1])
                assert said == pytest.approx(left, abs=1)
