"""The quickstart's data: what is planned, and that the bytes depend on nothing else."""

import collections
import json
import math

import cv2
import numpy as np
import pytest

from datamodules.decoding import decode_pair
from datamodules.degradations import CLEAN, GROUPS, degrade
from datamodules.shards import ShardIndex, read_shard
from datamodules.synthetic.photographs import TEST, VALIDATION, load_photograph, photograph_crop, random_crop
from datamodules.synthetic.quickstart import (
    Photographs,
    make_sample,
    photograph_recipes,
    plan_shards,
    train_recipes,
    write_folders,
    write_plan,
)
from datamodules.synthetic.scenes import make_scene
from mimdit.commands.shards import quickstart

RECIPES = train_recipes(14, size=32, clean=0.3, seed=5) + photograph_recipes(TEST[:1], size=32, draws=1, severities=[0.5], seed=5)[:6]
SMALL = {"train_images": 3, "size": 32, "photograph_size": 32, "draws": 1, "workers": 1}


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "data"
    write_folders({folder: RECIPES}, {"seed": 5}, shard_size=3, workers=1)
    return folder


def test_training_groups_come_as_often_as_documented():
    count = 20_000
    groups = collections.Counter(recipe.group for recipe in train_recipes(count, size=32, clean=0.3, seed=0))
    single = [group for group, atoms in GROUPS.items() if len(atoms) == 1]
    odds = {group: 0.0 if group == CLEAN else 2.0 if group in single else 1.0 for group in GROUPS}
    for group in GROUPS:
        share = 0.3 if group == CLEAN else 0.7 * odds[group] / sum(odds.values())
        assert abs(groups[group] - count * share) < 4 * (count * share) ** 0.5


def test_training_severities_are_uniform_from_a_tenth_on():
    severities = np.array([r.severity for r in train_recipes(20_000, size=32, clean=0.3, seed=0) if r.group != CLEAN])
    assert severities.min() >= 0.1 and severities.max() <= 1.0
    assert np.allclose(np.quantile(severities, [0.25, 0.5, 0.75]), [0.325, 0.55, 0.775], atol=0.02)
    weak = [r.severity for r in train_recipes(2_000, size=32, clean=0.0, seed=0, min_severity=0.02, max_severity=0.3)]
    assert 0.02 <= min(weak) < 0.03 and 0.29 < max(weak) <= 0.3
    mild = [r.severity for r in train_recipes(2_000, size=32, clean=0.0, seed=0, max_severity=0.6)]
    assert min(mild) >= 0.1 and 0.59 < max(mild) <= 0.6


def test_more_training_images_keep_the_earlier_ones():
    assert train_recipes(50, size=32, clean=0.3, seed=1)[:20] == train_recipes(20, size=32, clean=0.3, seed=1)


def test_every_photograph_is_drawn_in_every_group_with_every_severity():
    recipes = photograph_recipes(TEST, size=256, draws=3, severities=[0.3, 0.6, 0.9], seed=0)
    assert len({recipe.key for recipe in recipes}) == len(recipes) == 4 * 21 * 3
    for group in GROUPS:
        for name in TEST:
            drawn = [recipe for recipe in recipes if (recipe.group, recipe.source) == (group, name)]
            assert len({recipe.seed for recipe in drawn}) == 3
            assert sorted(recipe.severity for recipe in drawn) == ([0.0] * 3 if group == CLEAN else [0.3, 0.6, 0.9])


def test_validation_and_test_share_no_photograph():
    assert not set(VALIDATION) & set(TEST)


def test_two_processes_write_the_bytes_of_one(written, tmp_path):
    write_folders({tmp_path / "data": RECIPES}, {"seed": 5}, shard_size=3, workers=2)
    assert content(tmp_path / "data") == content(written)


def test_a_run_that_was_killed_is_continued_to_the_same_bytes(written, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    done, half, short, *_ = plan_shards(folder, RECIPES, 3)
    for plan in (done, half, short):
        write_plan(plan)
    half.path.with_suffix(".json").unlink()  # killed between the tar and its sidecar
    half.path.write_bytes(b"of another run")
    short.path.write_bytes(short.path.read_bytes()[:1000])
    (folder / ".05Noise-000000.tar.123.tmp").write_bytes(b"half a shard")
    kept = done.path.stat().st_mtime_ns
    write_folders({folder: RECIPES}, {"seed": 5}, shard_size=3, workers=1)
    assert content(folder) == content(written)
    assert done.path.stat().st_mtime_ns == kept


def test_what_is_stored_is_what_the_recipe_says(written):
    index = ShardIndex.load(written)
    stored = {s.key: s for shard in index.shards for s in read_shard(index.path(shard), samples=shard.samples)}
    assert stored.keys() == {recipe.key for recipe in RECIPES}
    for recipe in RECIPES:
        pair = decode_pair(stored[recipe.key])
        scene = recipe.source == "scene"
        assert np.array_equal(pair.gt, make_scene(32, seed=recipe.seed) if scene else photograph_crop(recipe.source, 32))
        assert np.array_equal(pair.lq, pair.gt) == (recipe.group == CLEAN)
        fields = json.loads(stored[recipe.key].json)
        assert fields["severity"] == recipe.severity and fields["atoms"] == list(GROUPS[recipe.group])


def test_the_command_keeps_what_is_there_and_refuses_other_options(tmp_path, capsys):
    quickstart(str(tmp_path), **SMALL)
    assert "validation" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.tar")}
    quickstart(str(tmp_path), **SMALL)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.tar")} == before
    with pytest.raises(ValueError, match="other options .seed 0 there, 1 now.*--overwrite"):
        quickstart(str(tmp_path), **SMALL, seed=1)
    quickstart(str(tmp_path), **{**SMALL, "train_images": 2}, seed=1, overwrite=True)
    assert ShardIndex.load(tmp_path / "train").samples == 2
    assert {folder.name for folder in tmp_path.iterdir()} == {"train", "validation", "test", "plan.json"}


@pytest.mark.parametrize("name", ["00Clean-000000.tar", "index.json", "plan.jsonl"])
def test_shards_that_the_command_did_not_plan_are_kept_unless_overwritten(tmp_path, name):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / name).write_bytes(b"of a conversion")
    with pytest.raises(ValueError, match=r"train holds shards, but \S+plan.json is missing.*another folder, or --overwrite=true"):
        quickstart(str(tmp_path), **SMALL)
    assert content(tmp_path / "train") == {name: b"of a conversion"} and not (tmp_path / "plan.json").exists()
    quickstart(str(tmp_path), **SMALL, overwrite=True)
    assert ShardIndex.load(tmp_path / "train").samples == 3 and not (tmp_path / "train" / "plan.jsonl").exists()


def test_an_interrupted_run_goes_on(tmp_path):
    quickstart(str(tmp_path), **SMALL)
    before = content(tmp_path / "train")
    for path in [tmp_path / "train" / "index.json", next((tmp_path / "train").glob("*.tar"))]:
        path.unlink()
    quickstart(str(tmp_path), **SMALL)
    assert content(tmp_path / "train") == before


@pytest.mark.parametrize(
    "option",
    [
        {"clean": math.nan},
        {"min_severity": math.nan},
        {"max_severity": math.nan},
        {"severities": [math.nan]},
        {"photograph_share": math.nan},
        {"retone": math.nan},
        {"clean_detail": math.nan},
        {"clean_detail": math.inf},
        {"clean_detail": -0.1},
        {"train_images": 0},
        {"workers": 0},
        {"clean": 1.5},
        {"min_severity": -0.1},
        {"max_severity": 0.0},
        {"severities": [0.5, 2.0]},
        {"severities": []},
        {"formulas": "other"},
    ],
)
def test_options_out_of_range_are_named(tmp_path, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        quickstart(str(tmp_path / "data"), **{**SMALL, **option})
    assert not (tmp_path / "data").exists()


def photographs(folder, names=("astronaut", "coffee")) -> list[str]:
    """Write photographs as the files of a folder; their names."""
    folder.mkdir(exist_ok=True)
    files = [f"{name}.png" for name in names]
    for name, file in zip(names, files):
        (folder / file).write_bytes(cv2.imencode(".png", load_photograph(name)[..., ::-1])[1].tobytes())
    return files


def test_a_share_of_the_training_images_are_crops(tmp_path):
    chosen = Photographs(tmp_path, ("a.jpg", "b.jpg", "c.jpg"), share=0.4, retone=0.25)
    plain, mixed = (train_recipes(5_000, size=32, clean=0.3, seed=0, photographs=folder) for folder in (None, chosen))
    crops = [recipe for recipe in mixed if recipe.source == "folder"]
    assert abs(len(crops) - 2_000) < 4 * (5_000 * 0.24) ** 0.5
    assert abs(sum(recipe.retoned for recipe in crops) / len(crops) - 0.25) < 4 * (0.1875 / len(crops)) ** 0.5
    names = collections.Counter(recipe.photograph for recipe in crops)
    assert names.keys() == set(chosen.names) and max(names.values()) < 1.2 * min(names.values())
    # The photographs change nothing else: same groups, severities and seeds.
    assert [(r.key, r.severity, r.seed) for r in mixed] == [(r.key, r.severity, r.seed) for r in plain]
    instead = train_recipes(50, size=32, clean=0.3, seed=0, photographs=Photographs(tmp_path, ("a.jpg",), share=1.0))
    assert {recipe.source for recipe in instead} == {"folder"}


def test_crops_are_stored_with_the_names_of_their_photographs(tmp_path):
    files = photographs(tmp_path / "photographs")
    options = {**SMALL, "train_images": 12, "photographs": str(tmp_path / "photographs"), "photograph_share": 1.0, "retone": 0.5}
    quickstart(str(tmp_path / "data"), **options)
    index = ShardIndex.load(tmp_path / "data" / "train")
    assert index.options["photographs"] == files and index.options["retone"] == 0.5 and index.options["photograph_share"] == 1.0
    samples = [s for shard in index.shards for s in read_shard(index.path(shard), samples=shard.samples)]
    assert len(samples) == 12
    for sample in samples:
        fields = json.loads(sample.json)
        photograph = load_photograph(fields["photograph"].removesuffix(".png"))
        clean = random_crop(photograph, 32, seed=fields["seed"], retoned=fields.get("retoned", False))
        np.testing.assert_array_equal(decode_pair(sample).gt, clean)
    # The test photographs are those of always, and say nothing of a folder.
    test = ShardIndex.load(tmp_path / "data" / "test")
    first = next(iter(read_shard(test.path(test.shards[0]), samples=1)))
    assert "photograph" not in json.loads(first.json)


def test_only_the_named_groups_are_made(tmp_path):
    quickstart(str(tmp_path / "data"), **{**SMALL, "train_images": 40, "clean": 0.5}, groups=["05Noise", "16Lowlight_Noise"])
    assert {shard.group for shard in ShardIndex.load(tmp_path / "data" / "train").shards} == {"00Clean", "05Noise", "16Lowlight_Noise"}
    assert len({shard.group for shard in ShardIndex.load(tmp_path / "data" / "test").shards}) == len(GROUPS)
    for groups, message in (([], "groups is empty"), (["00Clean"], "names '00Clean'"), (["Noise"], "names 'Noise'; choose from 01Blur")):
        with pytest.raises(ValueError, match=message):
            quickstart(str(tmp_path / "other"), **SMALL, groups=groups)


def test_mixtures_that_foundir_has_not_are_made_by_name(tmp_path):
    mixed = train_recipes(200, size=32, clean=0.0, seed=0, groups=["08Haze", "Haze_Noise"])
    assert 110 < sum(recipe.group == "08Haze" for recipe in mixed) < 160 and {recipe.group for recipe in mixed} == {"08Haze", "Haze_Noise"}
    quickstart(str(tmp_path / "mixed"), **{**SMALL, "train_images": 8, "clean": 0.0}, groups=["Haze_Noise"])
    index = ShardIndex.load(tmp_path / "mixed" / "train")
    assert {shard.group for shard in index.shards} == {"Haze_Noise"} and index.samples == 8
    sample = next(iter(read_shard(index.path(index.shards[0]), samples=8)))
    fields, pair = json.loads(sample.json), decode_pair(sample)
    assert fields["atoms"] == ["noise", "haze"]
    expected = degrade(pair.gt.astype(np.float32) / 255, "noise_haze", severity=fields["severity"], seed=fields["seed"])
    np.testing.assert_array_equal(pair.lq, np.round(expected * 255).astype(np.uint8))
    for group, message in {"Noise_Haze_Fog": "or combine degradations .*such as Haze_Noise", "Haze_Rain": "'Haze_Rain'"}.items():
        with pytest.raises(ValueError, match=message):
            quickstart(str(tmp_path / "other"), **SMALL, groups=[group])


def test_undegraded_crops_may_have_less_detail(tmp_path):
    # Nothing but a faint ramp: its detail, 0.005 a pixel, is enough for what stays undegraded, not for the rest.
    (tmp_path / "photographs").mkdir()
    ramp = np.broadcast_to(np.linspace(60, 60 + 1.275 * 599, 600)[None, :, None] % 180, (600, 600, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "photographs" / "ramp.png"), ramp)
    options = {**SMALL, "photographs": str(tmp_path / "photographs"), "photograph_share": 1.0, "train_images": 30}
    quickstart(str(tmp_path / "data"), **options, clean_detail=0.001)
    index = ShardIndex.load(tmp_path / "data" / "train")
    assert index.options["clean_detail"] == 0.001
    samples = [json.loads(s.json) for shard in index.shards for s in read_shard(index.path(shard), samples=shard.samples)]
    least = {fields["group"] == "00Clean": fields.get("least_detail") for fields in samples}
    assert least == {True: 0.001, False: None}


def test_a_split_keeps_photographs_out(tmp_path):
    photographs(tmp_path / "photographs", ("astronaut", "coffee", "chelsea"))
    (tmp_path / "split.txt").write_text("coffee.png\nchelsea.png\n")
    options = {**SMALL, "photographs": str(tmp_path / "photographs"), "split": str(tmp_path / "split.txt")}
    quickstart(str(tmp_path / "data"), **options)
    assert ShardIndex.load(tmp_path / "data" / "train").options["photographs"] == ["chelsea.png", "coffee.png"]
    with pytest.raises(ValueError, match="other options .photographs "):
        quickstart(str(tmp_path / "data"), **{**options, "split": None})
    with pytest.raises(ValueError, match="--photographs"):
        quickstart(str(tmp_path / "other"), **SMALL, split=str(tmp_path / "split.txt"))


def test_varied_formulas_are_those_of_the_training_samples_only(monkeypatch, tmp_path):
    asked = []

    def degrade(image, group, *, severity, seed, formulas="original"):
        asked.append(formulas)
        return image

    monkeypatch.setattr("datamodules.synthetic.quickstart.degrade", degrade)
    quickstart(str(tmp_path), **{**SMALL, "clean": 0.0}, formulas="varied")
    assert collections.Counter(asked)["varied"] == SMALL["train_images"]
    assert ShardIndex.load(tmp_path / "train").options["formulas"] == "varied"


def test_fields_of_older_samples_stay_as_they_were():
    fields = make_sample(RECIPES[0])["json"]
    assert fields.keys() == {"group", "source", "severity", "seed", "atoms", "width", "height"}
