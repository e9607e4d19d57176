"""The data module: all test sets in a row, strict about what is unpaired, every image on some rank."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules import BenchmarkDataModule, TestSetDataModule
from datamodules.test_sets import PairFolders, Unpaired
from datamodules.test_sets.data_module import crop_centrally
from tests.datamodules.test_sets.made_trees import make, pixels


def module(tmp_path, **options) -> TestSetDataModule:
    make(tmp_path / "GoPro", *(f"{side}/{number}.png" for side in ("input", "target") for number in range(3)))
    make(tmp_path / "VV", "1.png", "2.png")
    test_sets = {"GoPro": PairFolders(str(tmp_path / "GoPro"), crop=8), "night": Unpaired(str(tmp_path / "VV"))}
    data = TestSetDataModule(test_sets, **{"num_workers": 0} | options)
    data.setup("test")
    return data


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_single_images_with_their_names(tmp_path, workers):
    batches = list(module(tmp_path, num_workers=workers).test_dataloader())
    names = [(batch["test_set"][0], batch["group"][0], batch["key"][0]) for batch in batches]
    assert names == [*(("GoPro", "GoPro", str(number)) for number in range(3)), ("night", "VV", "1"), ("night", "VV", "2")]
    expected = torch.from_numpy(pixels("input/1.png")[2:18].copy()).permute(2, 0, 1)[None].float() / 255
    torch.testing.assert_close(batches[1]["lq"], expected, rtol=0, atol=0)
    assert batches[1]["gt"].shape == (1, 3, 16, 24) and "gt" not in batches[3]
    assert batches[1]["degradation"].tolist() == [[1, 0, 0, 0, 0, 0, 0]]


def test_ranks_have_equally_many_and_together_all(tmp_path):
    data = module(tmp_path)
    shares = []
    for rank in range(2):
        data.trainer = SimpleNamespace(world_size=2, global_rank=rank)
        shares.append([(batch["test_set"][0], batch["key"][0]) for batch in data.test_dataloader()])
    assert len(shares[0]) == len(shares[1]) == 3 and len(set(shares[0] + shares[1])) == 5


def test_unpaired_images_fail_the_test_unless_allowed(tmp_path):
    root = make(tmp_path, *(f"input/{number}.png" for number in range(20)), "target/3.png")
    with pytest.raises(ValueError, match=r"A: 19 unpaired \(.*input/0.png: no image 0.* and 9 more\)\. Complete .*allow_unpaired"):
        TestSetDataModule({"A": PairFolders(str(root))}).setup("test")
    data = TestSetDataModule({"A": PairFolders(str(root), allow_unpaired=True)}, num_workers=0)
    data.setup("test")
    assert [batch["key"] for batch in data.test_dataloader()] == [["3"]]


def test_a_limit_takes_images_evenly_from_each_group(tmp_path):
    data = module(tmp_path, limit=2)
    assert [batch["key"][0] for batch in data.test_dataloader()] == ["0", "1", "1", "2"]


def test_central_crop_is_promptirs():
    image = np.arange(37 * 50 * 3).reshape(37, 50, 3)
    base, (height, width) = 16, (37, 50)
    crop_h, crop_w = height % base, width % base
    theirs = image[crop_h // 2 : height - crop_h + crop_h // 2, crop_w // 2 : width - crop_w + crop_w // 2, :]
    assert np.array_equal(crop_centrally(image, base), theirs)
    with pytest.raises(ValueError, match="cannot be cut"):
        crop_centrally(image[:9], 16)


def test_no_test_set_is_an_error():
    with pytest.raises(ValueError, match="data.test_sets is empty"):
        TestSetDataModule({})


def test_the_older_names_still_work_and_the_older_key_wins(tmp_path):
    one, other = {"A": Unpaired(str(tmp_path))}, {"B": Unpaired(str(tmp_path))}
    for data in (BenchmarkDataModule(one), BenchmarkDataModule(benchmarks=one), TestSetDataModule(other, benchmarks=one)):
        assert isinstance(data, TestSetDataModule) and data.test_sets is one
