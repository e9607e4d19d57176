"""Live storages: sizes in closed form, on tensors with and without data."""

import torch

from mimdit.planning.simulated_gpu import ShapesOnly
from mimdit.planning.storage_tracker import StorageTracker


def test_the_peak_is_that_of_what_lives_at_once():
    with StorageTracker("cpu") as tracker:
        kept = torch.zeros(1000)
        freed = kept + 1
        del freed
        kept.mul(2)
    assert (tracker.live, tracker.peak) == (4000, 8000)


def test_views_share_their_storage():
    with StorageTracker("cpu") as tracker:
        whole = torch.zeros(10, 10)
        rows, again = whole[2:4], whole.view(100)
    assert tracker.live == 400 and rows.shape[0] + again.shape[0] == 102


def test_tensors_without_data_count_alike():
    with ShapesOnly(), StorageTracker("cpu") as tracker:
        kept = torch.zeros(2**40)
    assert tracker.live == kept.numel() * 4


def test_a_resized_storage_counts_with_its_new_size():
    with StorageTracker("cpu") as tracker:
        tensor = torch.zeros(1000)
        tensor.untyped_storage().resize_(0)
    assert (tracker.live, tracker.peak) == (0, 4000)


def test_sizes_are_rounded_as_an_allocator_does():
    with StorageTracker("cpu", block=512) as tracker:
        tensors = [torch.zeros(1), torch.zeros(129)]
    assert tracker.live == 512 + 1024 and len(tensors) == 2


def test_tensors_of_other_devices_do_not_count():
    with StorageTracker("cpu") as tracker:
        tensor = torch.zeros(1000, device="meta")
    assert tracker.peak == 0 and tensor.numel() == 1000
