"""FoundIR's stages and its test set, from shards and as released."""

import logging

import pytest

from datamodules import FoundIRDataModule
from datamodules.decoding import BadSampleError, decode_image
from datamodules.foundir import COMPOSED, ISOLATED, TEST_PAIRS, missing_test_pairs
from datamodules.pairs import ListedPairs, open_pairs
from datamodules.shards import ShardStore
from datamodules.sources.listing import list_pairs
from tests.datamodules.made_shards import make_folder
from tests.datamodules.made_sources import made_pairs, write_archives, write_group_folders, write_meta, write_side_folders


def quotas(folder, **options) -> dict[str, int]:
    return FoundIRDataModule(str(folder), crop=16, num_workers=0, **options)._quotas()


@pytest.fixture
def train(tmp_path):
    sizes = {"01Blur": [3], "02Blur_Noise": [2], "03Blur_JPEG": [1], "05Noise": [2], "07Noise_JPEG": [4], "08Haze": [5]}
    return make_folder(tmp_path / "train", sizes).folder


def test_the_published_test_set_has_1500_pairs_in_20_groups():
    assert sum(TEST_PAIRS.values()) == 1500 and len(TEST_PAIRS) == 20
    assert sum(TEST_PAIRS[group] for group in ISOLATED) == 750


def test_the_first_stage_has_the_isolated_groups_alone(train):
    with pytest.raises(ValueError, match="no training group '06JPEG'"):
        quotas(train, stage="isolated")
    assert quotas(train, stage="isolated", groups=["01Blur", "08Haze"]) == {"01Blur": 3, "08Haze": 5}


def test_the_second_stage_has_all_and_the_composed_groups(train):
    found = quotas(train)
    assert found == {**quotas(train, compose=False), **{group: found[source] for group, source in COMPOSED.items()}}
    assert found["18Lowlight_Blur_Noise"] == 2 and found["20Lowlight_Noise_JPEG"] == 4


def test_an_unknown_stage_is_named(train):
    with pytest.raises(ValueError, match="data.stage is 'two'; choose isolated or all"):
        FoundIRDataModule(str(train), stage="two")


@pytest.mark.parametrize("write", [write_group_folders, write_side_folders, write_archives])
def test_the_test_set_is_read_as_it_was_released(tmp_path, write):
    pairs = made_pairs(("01Blur", "12NightRain"), count=3, side=48)
    write(tmp_path / "test", pairs, **({"tool": "python"} if write is write_archives else {}))
    read = open_pairs(str(tmp_path / "test"), ShardStore())
    listed = {pair.key: pair for pair in (read[number] for number in range(len(read)))}
    assert sorted(listed) == sorted(f"{group}/{stem}" for group in pairs for stem in pairs[group])
    assert [read[number].group for number in range(4)] == ["01Blur", "12NightRain"] * 2
    for group in pairs:
        for stem, made in pairs[group].items():
            pair = listed[f"{group}/{stem}"]
            assert (pair.lq == decode_image(made.lq, "lq")).all() and (pair.gt == decode_image(made.gt, "gt")).all()
            assert pair.degradation.sum() == (2 if group == "12NightRain" else 1)


def test_the_test_set_is_read_by_its_list(tmp_path):
    pairs = made_pairs(("01Blur",), count=2, side=48)
    write_group_folders(tmp_path, pairs)
    write_meta(tmp_path / "Testset_meta_info.txt", pairs)
    assert len(open_pairs(str(tmp_path / "Testset_meta_info.txt"), ShardStore())) == 2


def test_an_image_without_its_partner_is_fatal_in_a_test_set(tmp_path):
    pairs = made_pairs(("01Blur",), count=2, side=48)
    stem = next(iter(pairs["01Blur"]))
    pairs["01Blur"][stem] = pairs["01Blur"][stem]._replace(gt=None)
    write_group_folders(tmp_path, pairs)
    with pytest.raises(BadSampleError, match=f"1 of its files make no pair: .*{stem}"):
        ListedPairs(list_pairs(tmp_path))


def test_an_incomplete_test_set_is_told_with_its_counts(tmp_path, caplog):
    write_group_folders(tmp_path, made_pairs(("01Blur",), count=2, side=48))
    data = FoundIRDataModule(test=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        data.setup("test")
    assert "not comparable" in caplog.text and "01Blur 2 of 150, 02Blur_Noise 0 of 50" in caplog.text
    assert missing_test_pairs(TEST_PAIRS) == ""
