"""Evaluation lists: fixed, whole, shared out once, and strict."""

import numpy as np
import pytest

from datamodules.decoding import BadSampleError
from datamodules.pairs import ShardPairs, ShareSampler
from tests.datamodules.made_shards import encode, keys_of, made_image, make_folder


def test_every_pair_is_listed_once_with_its_pixels(tmp_path):
    pairs = ShardPairs(make_folder(tmp_path / "data"))
    listed = [pairs[number] for number in range(len(pairs))]
    assert sorted(pair.key for pair in listed) == keys_of()
    assert all(np.array_equal(pair.lq, made_image(pair.key)) and np.array_equal(pair.gt, 255 - pair.lq) for pair in listed)


def test_the_groups_take_turns(tmp_path):
    pairs = ShardPairs(make_folder(tmp_path / "data"))
    assert [pairs[number].group for number in range(9)] == ["00Clean", "01Blur", "09Lowlight_Haze"] * 3


@pytest.mark.parametrize("ranks", [1, 2, 4, 30])
def test_ranks_share_without_repeating(tmp_path, ranks):
    pairs = ShardPairs(make_folder(tmp_path / "data"))
    samplers = [ShareSampler(pairs, num_replicas=ranks, rank=rank, shuffle=False) for rank in range(ranks)]
    shares = [list(sampler) for sampler in samplers]
    assert sorted(sum(shares, [])) == list(range(25))
    assert [len(sampler) for sampler in samplers] == [len(share) for share in shares]


@pytest.mark.parametrize(
    "spoiled, message",
    [
        ({"lq.png": b"no image"}, r"lq image of 01Blur/0003 in .*01Blur-000000\.tar cannot be decoded"),
        ({"gt.png": encode(made_image("x", 20, 30))}, r"01Blur/0003 in .*01Blur-000000\.tar differ in size: lq is 24x20, gt is 30x20"),
    ],
)
def test_a_bad_pair_is_fatal_and_named(tmp_path, spoiled, message):
    index = make_folder(tmp_path / "data", edit=lambda sample: {**sample, **spoiled} if sample["__key__"] == "01Blur/0003" else sample)
    pairs = ShardPairs(index)
    with pytest.raises(BadSampleError, match=message):
        for number in range(len(pairs)):
            pairs[number]
