"""Predicted peak of a training step against the allocations that PyTorch's profiler records in a real one."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from callbacks import EMAUpdate
from mimdit.planning.fake_step import STEPS, Settings, count
from mimdit.planning.model_shapes import Data
from tests.tiny_models import tiny_batch, tiny_restorer
from tests.tiny_training import train

SIZES = {"backbone": {"trainable": False}, "conditioner": {"dim": 32, "num_blocks": 1}, "ema_decay": 0.9}


def real_peak(batch: int, crop: int, window: int) -> int:
    """Bytes at most: those of the weights, which exist before, and the profiler's sum of all later allocations and frees."""
    restorer = tiny_restorer(**SIZES)
    weights = sum(tensor.nbytes for tensor in (*restorer.parameters(), *restorer.buffers()))
    batches = [tiny_batch(batch, crop, seed) for seed in range(STEPS * window)]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train(restorer, batches, window, gradient_clip_val=1.0, callbacks=[EMAUpdate()], precision="32-true")
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return weights + peak


@pytest.mark.parametrize(("batch", "crop", "window"), [(4, 64, 1), (8, 32, 2)])
def test_the_predicted_peak_is_that_of_a_real_step(batch, crop, window):
    with torch.device("meta"):
        shapes = tiny_restorer(**SIZES)
    shapes.log = shapes.log_dict = lambda *args, **options: None
    predicted = count(shapes, Data(batch, crop, False), Settings("cpu", "32-true", 1.0, window)).peak
    assert predicted == pytest.approx(real_peak(batch, crop, window), rel=0.05)
