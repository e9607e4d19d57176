"""One plan a folder: reused, refused or replaced."""

import threading

import pytest

from datamodules.conversion.options import Options
from datamodules.conversion.plan import changed_versions, existing_plan, prepare
from datamodules.sources.listing import list_pairs
from tests.datamodules.conversion.made_conversion import SMALL, content, converted, planned
from tests.datamodules.made_shards import make_folder
from tests.datamodules.made_sources import write_archives

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
