"""The endless stream over ranks and workers: what is delivered, in which state, and what happens to bad samples."""

import itertools
import logging

import pytest
import torch

from datamodules.streaming.mixture import Mixture
from datamodules.streaming.order import SampleOrder
from datamodules.streaming.partition import Progress
from datamodules.streaming.stream import StreamLoader, TooManyBadSamplesError, TrainStream
from tests.datamodules.made_shards import encode, keys_of, made_image, make_folder


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("stream") / "data")


def loader(index, *, rank=0, world_size=1, workers=0, batch_size=1, context=None, **options) -> StreamLoader:
    stream = TrainStream(
        SampleOrder(index, seed=1), batch_size=batch_size, crop=16, rank=rank, world_size=world_size, num_workers=workers, **options
    )
    return StreamLoader(stream, Progress(stream.workers), num_workers=workers, multiprocessing_context=context)


def take(batches, count: int) -> list:
    return list(itertools.islice(batches, count))


def until_epoch(batches, epochs: int, workers: int):
    """Yield batches of one sample until every worker has passed the given number of epochs."""
    passed: set[int] = set()
    for batch in batches:
        consumer, epoch, _ = batch["position"]
        if epoch < epochs:
            yield batch
        else:
            passed.add(consumer)
            if len(passed) == max(1, workers):
                return


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_each_epoch_shows_every_sample_exactly_once(index, world_size, workers):
    epochs = 3
    delivered: dict[int, list[str]] = {epoch: [] for epoch in range(epochs)}
    for rank in range(world_size):
        for batch in until_epoch(loader(index, rank=rank, world_size=world_size, workers=workers), epochs, workers):
            delivered[batch["position"][1]] += batch["key"]
    assert {epoch: sorted(keys) for epoch, keys in delivered.items()} == dict.fromkeys(range(epochs), keys_of())


def test_one_consumer_delivers_the_line(index):
    batches = take(loader(index, batch_size=4), 13)  # 52 samples: batches straddle two ends of epochs
    order = SampleOrder(index, seed=1)
    expected = [use.sample.key for epoch in range(3) for use in order.read(epoch, 0, 25)]
    assert [key for batch in batches for key in batch["key"]] == expected[:52]
    assert [batch["position"][1:] for batch in batches[5:7]] == [[0, 24], [1, 3]]


@pytest.mark.parametrize("workers, context", [(2, None), (1, "spawn")])
def test_ranks_and_workers_do_not_change_a_sample(index, workers, context):
    def pixels(batches) -> dict[str, bytes]:
        return {batch["key"][0]: batch["lq"].numpy().tobytes() + batch["gt"].numpy().tobytes() for batch in batches}

    alone = pixels(take(loader(index), 25))
    shared = {}
    for rank in range(2):
        batches = loader(index, rank=rank, world_size=2, workers=workers, context=context)
        shared |= pixels(until_epoch(batches, 1, workers))
    assert alone == shared and len(alone) == 25


def test_crops_differ_by_epoch_unless_frozen(index):
    for frozen in (False, True):
        first, second = (
            {b["key"][0]: b["lq"] for b in take(loader(index, frozen=frozen), 50)[part]} for part in (slice(25), slice(25, 50))
        )
        same = sum(torch.equal(first[key], second[key]) for key in first)
        assert same == 25 if frozen else same < 5


def test_images_are_floats_of_the_stored_bytes(index):
    batch = next(iter(loader(index, batch_size=3)))
    assert batch["lq"].dtype == torch.float32 and batch["lq"].shape == (3, 3, 16, 16)
    assert batch["degradation"].shape == (3, 7)
    assert torch.equal((batch["lq"] * 255).round() + (batch["gt"] * 255).round(), torch.full((3, 3, 16, 16), 255.0))
    for place, key in enumerate(batch["key"]):
        stored = {tuple(pixel) for pixel in made_image(key).reshape(-1, 3).tolist()}
        shown = (batch["lq"][place] * 255).round().int().permute(1, 2, 0).reshape(-1, 3)
        assert {tuple(pixel) for pixel in shown.tolist()} <= stored


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("stop", [1, 5, 23])
def test_continuing_equals_never_having_stopped(index, workers, stop):
    whole = take(loader(index, workers=workers, batch_size=4), 40)
    progress = Progress(max(1, workers))
    for batch in whole[:stop]:
        progress.deliver(batch["position"])
    progress.commit()
    resumed = loader(index, workers=workers, batch_size=4)
    resumed.progress.load_state_dict(progress.state_dict())
    for got, expected in zip(take(resumed, 40 - stop), whole[stop:], strict=True):
        assert got["key"] == expected["key"] and got["position"] == expected["position"]
        assert torch.equal(got["lq"], expected["lq"]) and torch.equal(got["gt"], expected["gt"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_iteration_continues_after_the_counted_batches(index, workers):
    options = {"workers": workers, "batch_size": 4}
    whole = take(loader(index, **options), 8)
    again = loader(index, **options)
    for batch in take(again, 5)[:3]:
        again.progress.deliver(batch["position"])
    again.progress.commit()
    assert [batch["key"] for batch in take(again, 5)] == [batch["key"] for batch in whole[3:8]]


def spoil(sample):
    """Make three of the 25 samples unusable, each in another way."""
    if sample["__key__"] == "01Blur/0003":
        return {**sample, "lq.png": b"no image"}
    if sample["__key__"] == "01Blur/0007":
        return {**sample, "gt.png": encode(made_image("x", 20, 30))}
    if sample["__key__"] == "09Lowlight_Haze/0001":
        return {**sample, "gt.png": sample["gt.png"][:-20]}
    return sample


BAD = {"01Blur/0003", "01Blur/0007", "09Lowlight_Haze/0001"}


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_skipped_counted_and_logged(tmp_path, caplog, workers):
    index = make_folder(tmp_path / "data", edit=spoil)
    batches = loader(index, workers=workers)
    with caplog.at_level(logging.WARNING, "datamodules.streaming.stream"):
        # Three epochs: a bad sample met again is the same bad sample.
        keys = [batch["key"][0] for batch in until_epoch(batches, 3, workers)]
    assert sorted(set(keys)) == sorted(set(keys_of()) - BAD) and len(keys) == 3 * 22
    assert len(batches.bad.reasons) == len(caplog.messages) == 3
    for key in BAD:
        assert any(key in message and ".tar" in message for message in caplog.messages)


def test_a_bad_sample_consumes_its_position(tmp_path):
    spoiled, whole = make_folder(tmp_path / "bad", edit=spoil), make_folder(tmp_path / "good")
    expected = {batch["key"][0]: batch["position"] for batch in take(loader(whole), 25)}
    positions = {batch["key"][0]: batch["position"] for batch in take(loader(spoiled), 22)}
    assert positions == {key: position for key, position in expected.items() if key not in BAD}


@pytest.mark.parametrize("workers", [0, 3])
def test_too_many_bad_samples_stop_with_the_list(tmp_path, workers):
    index = make_folder(tmp_path / "data", edit=spoil)
    with pytest.raises(TooManyBadSamplesError) as error:
        take(loader(index, workers=workers, max_bad_samples=2), 25)
    assert "max_bad_samples=2" in str(error.value) and all(key in str(error.value) for key in BAD)


def test_no_good_sample_at_all_stops(tmp_path):
    index = make_folder(tmp_path / "data", edit=lambda sample: {**sample, "lq.png": b""})
    with pytest.raises(TooManyBadSamplesError, match="No sample of .*data can be used"):
        next(iter(loader(index)))


def test_a_shard_that_vanishes_is_counted_once_and_its_samples_take_up_their_positions(tmp_path):
    index, whole = make_folder(tmp_path / "data"), make_folder(tmp_path / "whole")
    (tmp_path / "data" / "01Blur-000001.tar").unlink()
    batches = loader(index)
    got = {batch["key"][0]: batch["position"] for batch in until_epoch(batches, 1, 0)}
    expected = {batch["key"][0]: batch["position"] for batch in until_epoch(loader(whole), 1, 0)}
    lost = {f"01Blur/{number:04d}" for number in range(5, 9)}
    assert got == {key: position for key, position in expected.items() if key not in lost}
    assert [place.rsplit("/")[-1] for place in batches.bad.lost_shards] == ["01Blur-000001.tar"] and not batches.bad.reasons
    assert "cannot be opened" in next(iter(batches.bad.lost_shards.values()))


def test_several_crops_of_one_decoded_image(index):
    batches = take(loader(index, batch_size=4, crops=2), 12)
    plain = {batch["draw"][0]: batch["lq"][0] for batch in take(loader(index), 25)}
    for batch in batches:
        assert batch["key"][0::2] == batch["key"][1::2]
        for name, image in zip(batch["draw"], batch["lq"], strict=True):
            if name in plain:  # crop 0 is the same, however many follow
                assert torch.equal(image, plain[name])
    assert len({name for batch in batches for name in batch["draw"]}) == 48
    assert sum(torch.equal(batch["lq"][0], batch["lq"][1]) for batch in batches) < 3


def test_composed_groups_degrade_the_clean_image_anew_each_pass(index):
    mixture = Mixture({"18Lowlight_Blur_Noise": 15})
    stream = TrainStream(
        SampleOrder(index, mixture, seed=1, sources={"18Lowlight_Blur_Noise": "01Blur"}), batch_size=15, crop=16, flip=False,
        composed=frozenset({"18Lowlight_Blur_Noise"}),
    )  # fmt: skip
    first, second = take(StreamLoader(stream, Progress(1)), 2)
    assert sorted(first["key"]) == sorted(second["key"]) == [key for key in keys_of() if key.startswith("01Blur")]
    assert set(first["group"]) == {"18Lowlight_Blur_Noise"}
    assert first["degradation"].tolist() == [[1, 1, 0, 0, 0, 0, 1]] * 15
    assert (first["lq"].mean() < 0.8 * first["gt"].mean()) and not torch.equal(first["lq"], second["lq"])
