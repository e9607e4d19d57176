"""The test set of compressed photographs."""

import json

import cv2
import numpy as np
import pytest

from datamodules.decoding import decode_pair
from datamodules.degradations.codecs import CODECS, compress_by
from datamodules.shards import ShardIndex, read_shard
from datamodules.synthetic.scenes import make_scene
from mimdit import cli


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed in range(2):
        cv2.imwrite(str(folder / f"{seed}.png"), make_scene(160, seed=seed)[..., ::-1])
    return folder


def test_groups_are_codecs_and_qualities_of_the_same_crops(photographs, tmp_path):
    options = ["--codecs=[jpeg,avif]", "--severities=[0.2,1.0]", "--size=64", "--draws=2", "--workers=1"]
    cli.main(["shards", "codecs", str(photographs), str(tmp_path / "set"), *options])
    index = ShardIndex.load(tmp_path / "set")
    groups = {f"{codec.upper()}_Q{CODECS[codec].quality(severity)}" for codec in ("jpeg", "avif") for severity in (0.2, 1.0)}
    assert set(index.groups) == groups and index.samples == 16
    truths = {}
    for sample in (sample for shard in index.shards for sample in read_shard(index.path(shard), samples=shard.samples)):
        pair, fields = decode_pair(sample), json.loads(sample.json)
        group, name = sample.key.split("/")
        truths.setdefault(name, []).append(pair.gt)
        assert group == f"{fields['codec'].upper()}_Q{fields['quality']}" and fields["atoms"] == ["jpeg"]
        again = compress_by(pair.gt.astype(np.float32) / 255, fields["codec"], fields["quality"])
        assert np.array_equal(np.round(again * 255).astype(np.uint8), pair.lq)
    assert len(truths) == 4 and all(np.array_equal(same[0], each) for same in truths.values() for each in same[1:])


def test_other_options_in_the_same_folder_and_unknown_ones_are_refused(photographs, tmp_path, capsys):
    given = ["shards", "codecs", str(photographs), str(tmp_path / "set"), "--workers=1"]
    cli.main([*given, "--codecs=[jpeg]", "--size=64"])
    for options, words in (
        (["--codecs=[jpeg]", "--size=32"], "made with other options (size 64 there, 32 now)"),
        (["--codecs=[gif]", "--size=64"], "codec 'gif' is unknown"),
        (["--codecs=[jpeg]", "--size=64", "--severities=[2]"], "severities must lie in 0..1, not 2"),
    ):
        with pytest.raises(SystemExit):
            cli.main([*given, *options])
        assert words in capsys.readouterr().err


def test_another_conversion_is_kept_and_the_remedies_exist(photographs, tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "index.json").write_text("of a conversion")
    given = ["shards", "codecs", str(photographs), str(tmp_path / "set"), "--workers=1", "--codecs=[jpeg]"]
    with pytest.raises(SystemExit):
        cli.main([*given, "--size=64"])
    assert "set holds shards, but" in capsys.readouterr().err and (tmp_path / "set" / "index.json").read_text() == "of a conversion"
    with pytest.raises(SystemExit):
        cli.main([*given, "--size=160"])
    said = capsys.readouterr().err
    assert "Remove it, or give a smaller --size." in said and "--split" not in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--codecs=[h264]", "--severities=[0.5,0.51]"], "severities 0.5 and 0.51 both give h264 the quality 33"),
        (["--codecs=[jpeg,jpeg]"], "codecs names jpeg twice"),
        (["--codecs=[]"], "codecs is empty; give at least one of jpeg, webp"),
        (["--severities=[]"], "severities is empty; give at least one in 0..1"),
        (["--size=0"], "size is 0; it must be at least 16"),
        (["--draws=0"], "draws is 0; it must be at least 1"),
    ],
)
def test_options_that_make_no_set_are_refused_before_anything_is_written(photographs, tmp_path, capsys, options, words):
    with pytest.raises(SystemExit):
        cli.main(["shards", "codecs", str(photographs), str(tmp_path / "set"), "--workers=1", "--size=64", *options])
    assert words in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
