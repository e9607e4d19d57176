"""The plan of a conversion: the content of each shard, and one conversion per folder."""

import collections
import threading
from pathlib import Path

import numpy as np
import pytest

from datamodules.conversion.options import Options
from datamodules.conversion.plan import changed_versions, existing_plan, make_plan, prepare
from datamodules.conversion.plan_file import key_of, pair_bytes
from datamodules.sources.listing import list_pairs
from datamodules.sources.members import Member
from datamodules.sources.pairing import Listing, SourcePair
from tests.datamodules.conversion.made_conversion import SMALL, content, converted, planned
from tests.datamodules.made_shards import make_folder
from tests.datamodules.made_sources import write_archives


def listing(sizes: dict[str, list[int]], suffix: str = "png") -> Listing:
    """Pairs of images of half of ``sizes`` bytes each."""
    found = []
    for group, listed in sizes.items():
        for number, size in enumerate(listed):
            lq, gt = (f"{group}/{side}/{number:04d}.{suffix}" for side in ("LQ", "GT"))
            found.append(SourcePair(group, f"{number:04d}", Member(lq, lq, size // 2), Member(gt, gt, size - size // 2)))
    return Listing(Path("/data"), "group folders", tuple(found), (), {})


MIB = 2**20
SIZES = {"01Blur": [300_000 + 1000 * number for number in range(50)], "08Haze": [900_000] * 10}


def order(plan, group: str) -> list[str]:
    return [pair.stem for shard in plan.shards if shard.group == group for pair in shard.pairs]


def test_every_pair_is_planned_once_in_shards_of_its_group():
    plan = make_plan(listing(SIZES), Options(shard_size=1))
    for group, sizes in SIZES.items():
        assert sorted(order(plan, group)) == [f"{number:04d}" for number in range(len(sizes))]
        shards = [shard.name for shard in plan.shards if shard.group == group]
        assert shards == [f"{group}-{number:06d}.tar" for number in range(len(shards))]
        recorded = plan.header["groups"][group]
        expected = {"listed": len(sizes), "pairs": len(sizes), "bytes": sum(sizes), "shards": len(shards)}
        assert {name: recorded[name] for name in expected} == expected


def test_a_shard_is_as_full_as_it_can_be_without_passing_the_size():
    plan = make_plan(listing({"01Blur": SIZES["01Blur"]}), Options(shard_size=2))
    filled = [sum(map(pair_bytes, shard.pairs)) for shard in plan.shards]
    assert max(filled) <= 2 * MIB
    for size, following in zip(filled, plan.shards[1:]):
        assert size + pair_bytes(following.pairs[0]) > 2 * MIB


def test_a_pair_that_is_larger_than_a_shard_has_one_of_its_own():
    plan = make_plan(listing({"01Blur": [3 * MIB] * 4}), Options(shard_size=2))
    assert [len(shard.pairs) for shard in plan.shards] == [1, 1, 1, 1]


def test_the_order_is_drawn_from_seed_and_group_alone():
    alone = make_plan(listing({"01Blur": SIZES["01Blur"]}), Options(shard_size=1))
    both = make_plan(listing(SIZES), Options(shard_size=4))
    other = make_plan(listing(SIZES), Options(shard_size=4, seed=1))
    assert order(alone, "01Blur") == order(both, "01Blur") != order(other, "01Blur")
    assert order(both, "01Blur") != sorted(order(both, "01Blur"))


def test_neighbours_part_company():
    stems = np.array([int(stem) for stem in order(make_plan(listing({"01Blur": [1000] * 3000}), Options()), "01Blur")])
    distances = np.abs(np.diff(stems))  # of a uniform permutation: n/3 in the mean, one of about n/2 pairs of places adjoins another
    assert abs(distances.mean() - 1000) < 60 and (distances == 1).sum() < 12


@pytest.mark.parametrize("limit, blur, haze", [(0.3, 15, 3), (0.001, 1, 1), (1, 1, 1), (12, 12, 10)])
def test_a_limit_takes_the_first_of_each_group(limit, blur, haze):
    taken = {"01Blur": blur, "08Haze": haze}
    whole, limited = (make_plan(listing(SIZES), Options(shard_size=1, limit=given)) for given in (None, limit))
    assert collections.Counter(shard.group for shard in limited.shards for _ in shard.pairs) == taken
    by_name = {shard.name: shard.pairs for shard in whole.shards}
    for shard in limited.shards:
        assert by_name[shard.name][: len(shard.pairs)] == shard.pairs
    for group in taken:
        *complete, _ = (shard for shard in limited.shards if shard.group == group)
        assert all(by_name[shard.name] == shard.pairs for shard in complete)


def test_shards_of_tiles_hold_fewer_images_and_the_fewest_jpegs():
    counts = {
        (suffix, tile): len(make_plan(listing({"01Blur": [100_000] * 60}, suffix), Options(shard_size=1, tile=tile)).shards)
        for suffix in ("png", "jpg")
        for tile in (None, 512)
    }
    assert counts["png", None] == counts["jpg", None] < counts["png", 512] < counts["jpg", 512]


def test_a_stem_whose_key_is_taken_is_rejected():
    member = Member("image.png", "image.png", 9)
    pairs = tuple(SourcePair("01Blur", stem, member, member) for stem in ("a.b", "a_b", "c"))
    plan = make_plan(Listing(Path("/data"), "group folders", pairs, (), {}), Options())
    assert sorted(order(plan, "01Blur")) == ["a.b", "c"]
    assert [reject[:2] for reject in plan.header["rejects"]] == [["01Blur", "a_b"]]
    assert key_of("01Blur", "a.b") == "01Blur/a_b"


@pytest.mark.parametrize("group", ["01.Blur", "Unheard"])
def test_a_group_that_cannot_be_one_is_named(group):
    with pytest.raises(ValueError, match=group):
        make_plan(listing({group: [100]}), Options())


def test_nothing_to_convert_is_an_error():
    with pytest.raises(ValueError, match="/data holds no pair"):
        make_plan(listing({}), Options())


@pytest.mark.parametrize(
    "option",
    [{"limit": 0}, {"limit": -0.5}, {"limit": 2.5}, {"shard_size": 0}, {"tile": 8}, {"tile_codec": "jpg"}, {"check": "no"}],
    ids=str,
)
def test_options_out_of_range_are_named(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        Options(**option)


SOURCE = {"command": "foundir", "src": "/data"}


def never():
    raise AssertionError("the source was listed again")


@pytest.fixture
def archives(pairs, tmp_path):
    return write_archives(tmp_path / "archives", {"01Blur": pairs["01Blur"]})


def test_the_plan_that_is_there_spares_listing_the_source(archives, tmp_path):
    first = prepare(tmp_path / "data", SOURCE, SMALL, lambda: list_pairs(archives))
    assert prepare(tmp_path / "data", SOURCE, SMALL, never) == first
    assert existing_plan(tmp_path / "data", SOURCE, SMALL) == first
    assert existing_plan(tmp_path / "data", SOURCE, Options(seed=1)) is None
    assert existing_plan(tmp_path / "other", SOURCE, SMALL) is None


@pytest.mark.parametrize(
    "source, options, named",
    [
        (SOURCE, Options(shard_size=1, seed=1), "seed 0 there, 1 now"),
        (SOURCE, Options(shard_size=2), "shard_size 1 there, 2 now"),
        ({**SOURCE, "src": "/elsewhere"}, SMALL, "src /data there, /elsewhere now"),
        ({**SOURCE, "groups": ["01Blur"]}, SMALL, r"groups None there, \['01Blur'\] now"),
    ],
)
def test_another_conversion_is_refused_by_what_differs(archives, tmp_path, source, options, named):
    prepare(tmp_path / "data", SOURCE, SMALL, lambda: list_pairs(archives))
    before = content(tmp_path / "data")
    with pytest.raises(ValueError, match=rf"{named}.*--overwrite=true"):
        prepare(tmp_path / "data", source, options, never)
    assert content(tmp_path / "data") == before


def test_a_volume_that_changed_is_named(archives, tmp_path):
    prepare(tmp_path / "data", SOURCE, SMALL, lambda: list_pairs(archives))
    volume = archives / "01Blur.z02"
    whole = volume.read_bytes()
    volume.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=rf"01Blur\.z02 had {len(whole)} bytes then and has {len(whole) - 1} now"):
        prepare(tmp_path / "data", SOURCE, SMALL, never)
    volume.unlink()
    with pytest.raises(ValueError, match=r"01Blur\.z02 had \d+ bytes then and is missing now"):
        prepare(tmp_path / "data", SOURCE, SMALL, never)


def test_overwriting_ends_as_a_conversion_into_an_empty_folder(source, tmp_path):
    converted(source, tmp_path / "data", Options(shard_size=2, seed=1))
    (tmp_path / "data" / "notes.txt").write_text("of the user")
    named = {"command": "foundir", "src": str(source), "groups": None}
    prepare(tmp_path / "data", named, SMALL, lambda: list_pairs(source), overwrite=True)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"plan.jsonl", "notes.txt"}
    converted(source, tmp_path / "data")
    converted(source, tmp_path / "fresh")
    assert content(tmp_path / "data") == content(tmp_path / "fresh") | {"notes.txt": b"of the user"}


def test_shards_of_something_else_are_not_mistaken_for_finished_ones(source, tmp_path):
    make_folder(tmp_path / "data")
    before = content(tmp_path / "data")
    with pytest.raises(ValueError, match="shards but no plan.jsonl"):
        planned(source, tmp_path / "data")
    assert content(tmp_path / "data") == before


def test_processes_that_begin_together_agree_on_the_plan(source, tmp_path):
    folder = tmp_path / "data"
    together = threading.Barrier(3)
    plans = []

    def begin():
        def list_when_all_found_no_plan():
            together.wait()
            return list_pairs(source)

        plans.append(prepare(folder, SOURCE, SMALL, list_when_all_found_no_plan))

    threads = [threading.Thread(target=begin) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(plans) == 3 and plans[0] == plans[1] == plans[2]
    assert list(folder.iterdir()) == [folder / "plan.jsonl"]


def test_other_versions_than_the_plan_s_are_told(source, tmp_path):
    plan = planned(source, tmp_path / "data")
    assert changed_versions(plan) is None
    plan.header["versions"]["cv2"] = "0.1"
    assert changed_versions(plan).startswith("cv2 0.1 there, ")
