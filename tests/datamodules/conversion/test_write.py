"""Writing the planned shards: stored bytes, parts, interruptions, and the closing index."""

import errno
import hashlib
import json
import os
import re
from functools import partial

import pytest

from datamodules.conversion.options import Options
from datamodules.conversion.plan import versions
from datamodules.conversion.plan_file import ShardLine
from datamodules.conversion.write import finalize, interleave_groups, read_images, write_shards
from datamodules.decoding import decode_image, decode_pair
from datamodules.degradations import GROUPS
from datamodules.shards import ShardIndex, Sidecar
from datamodules.shards.folder import ConversionStoppedError, Part
from datamodules.sources.listing import list_pair_folders, list_pairs
from tests.datamodules.conversion.made_conversion import content, converted, fields, planned, rejected, samples, stored
from tests.datamodules.made_sources import MadePair, write_archives, write_group_folders, write_meta, write_side_folders


def listed_in_a_file(folder, pairs):
    write_group_folders(folder, pairs)
    return write_meta(folder / "meta.txt", pairs)


LAYOUTS = {
    "archives in volumes": write_archives,
    "stored archives, Zip64, no top folder": partial(write_archives, zip64=True, deflate=False, top_folder=False),
    "archives in one volume": partial(write_archives, split=None),
    "side folders": write_side_folders,
    "a list": listed_in_a_file,
}


@pytest.fixture(scope="module")
def reference(source, tmp_path_factory):
    return converted(source, tmp_path_factory.mktemp("reference") / "data")


def test_every_image_is_stored_byte_by_byte_with_what_it_is(pairs, reference):
    found = samples(reference)
    assert found.keys() == {f"{group}/{stem}" for group, stems in pairs.items() for stem in stems}
    turned = 0
    for key, sample in found.items():
        group, stem = key.split("/")
        made, said = pairs[group][stem], fields(sample)
        assert (sample.lq, sample.gt) == (made.lq, made.gt)
        assert (said["lq_sha256"], said["gt_sha256"]) == tuple(hashlib.sha256(data).hexdigest() for data in (made.lq, made.gt))
        assert said["group"] == group and said["atoms"] == list(GROUPS[group])
        assert (said["height"], said["width"]) == decode_image(made.lq, "").shape[:2] == decode_pair(sample).gt.shape[:2]
        assert (said["lq_source"], said["gt_source"]) == (f"{group}/LQ/{stem}{made.lq_suffix}", f"{group}/GT/{stem}{made.gt_suffix}")
        assert said["lq_orientation"] == said["gt_orientation"]
        turned += said["lq_orientation"] == 6 and said["height"] > said["width"]
    assert turned == 9


def test_the_suffix_in_the_tar_is_the_true_one(pairs, reference):
    names = set(re.findall(rb"(\d{7})\.(lq|gt)\.(\w+)\0", b"".join(path.read_bytes() for path in reference.glob("*.tar"))))
    assert len(names) == 108
    for stem, side, suffix in names:
        data = next(getattr(stems[stem.decode()], side.decode()) for stems in pairs.values() if stem.decode() in stems)
        assert suffix == (b"jpg" if data.startswith(b"\xff\xd8\xff") else b"png")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_shards(pairs, reference, tmp_path, layout):
    source = LAYOUTS[layout](tmp_path / "source", pairs)
    found, expected = stored(converted(source, tmp_path / "data")), stored(reference)
    assert {name: [(s.key, s.lq, s.gt) for s in listed] for name, listed in found.items()} == {
        name: [(s.key, s.lq, s.gt) for s in listed] for name, listed in expected.items()
    }


def test_two_folders_of_pairs_are_listed_and_read(pairs, source, reference):
    listing = list_pair_folders(source / "08Haze" / "LQ", source / "08Haze" / "GT", group="08Haze")
    assert [pair.stem for pair in listing.pairs] == sorted(pairs["08Haze"])
    assert ShardIndex.load(reference).groups["08Haze"]


class RecordingReader:
    """Notes what is read."""

    def __init__(self):
        self.read_members = []

    def read(self, member):
        self.read_members.append(member)
        return member.name.encode()


def test_each_member_is_read_once_in_the_order_it_lies_in(pairs, tmp_path):
    listing = list_pairs(write_archives(tmp_path, {"01Blur": pairs["01Blur"]}))
    shuffled_pairs = sorted(listing.pairs, key=lambda pair: hashlib.sha256(pair.stem.encode()).digest())
    reader = RecordingReader()
    images = read_images(reader, shuffled_pairs)
    offsets = [member.offset for member in reader.read_members]
    assert offsets == sorted(offsets) and len(offsets) == len(set(offsets)) == 36
    assert images == {number: (pair.lq.name.encode(), pair.gt.name.encode()) for number, pair in enumerate(shuffled_pairs)}


def spoilt(pairs, stem, spoil):
    """The pairs with one of them replaced."""
    return {group: {name: spoil(pair) if name == stem else pair for name, pair in stems.items()} for group, stems in pairs.items()}


def flipped(data):
    """The data with a byte in its middle changed."""
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def cut(data):
    """As many bytes, the last half of them lost."""
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


WRONG = {
    "0000003": (lambda pair: pair._replace(lq=cut(pair.lq)), "lq: 01Blur/LQ/0000003.jpg: its jpg data was cut short"),
    "0000007": (lambda pair: pair._replace(gt=cut(pair.gt)), "gt: 01Blur/GT/0000007.png: its png data is damaged"),
    "0000013": (lambda pair: pair._replace(gt=flipped(pair.gt)), "gt: 01Blur/GT/0000013.png: its png data is damaged"),
    "0000004": (lambda pair: pair._replace(gt=b"\0" * len(pair.gt)), "gt: 01Blur/GT/0000004.png: it begins with 00 00 00 00"),
}


@pytest.mark.parametrize("stem", WRONG)
@pytest.mark.parametrize("tile", [None, 64])
def test_a_rejected_pair_leaves_a_gap_and_moves_nothing(pairs, source, tmp_path, stem, tile):
    spoil, reason = WRONG[stem]
    options = Options(shard_size=1, tile=tile, limit=18)
    bad = write_group_folders(tmp_path / "bad", {"01Blur": spoilt(pairs, stem, spoil)["01Blur"]})
    good = write_group_folders(tmp_path / "good", {"01Blur": pairs["01Blur"]})
    found, whole = (converted(root, tmp_path / f"from {root.name}", options) for root in (bad, good))
    expected = {name: [s for s in listed if f"/{stem}" not in s.key] for name, listed in stored(whole).items()}
    assert {name: [(s.key, s.lq, s.gt, s.json) for s in listed] for name, listed in stored(found).items()} == {
        name: [(s.key, s.lq, s.gt, s.json) for s in listed] for name, listed in expected.items()
    }
    assert rejected(found).keys() == {f"01Blur/{stem}"} and rejected(found)[f"01Blur/{stem}"].startswith(reason)
    unchanged = [name for name, data in content(whole).items() if name.endswith(".tar") and content(found)[name] == data]
    assert len(unchanged) == len(list(whole.glob("*.tar"))) - 1


def test_images_of_different_sizes_are_rejected(pairs, tmp_path):
    other = pairs["08Haze"]["0000021"]  # upright, while 0000023 lies on its side
    source = write_group_folders(tmp_path / "source", spoilt(pairs, "0000023", lambda pair: pair._replace(gt=other.gt)))
    assert rejected(converted(source, tmp_path / "data")) == {
        "08Haze/0000023": "the images differ in size: lq is 160x176, gt is 176x160 (width x height)"
    }


def test_a_member_of_a_wrong_checksum_is_rejected(pairs, tmp_path):
    source = write_archives(tmp_path / "source", {"01Blur": pairs["01Blur"]}, deflate=False)
    listing = list_pairs(source)
    member = next(pair.lq for pair in listing.pairs if pair.stem == "0000003")
    volumes = sorted(source.iterdir())
    data = b"".join(path.read_bytes() for path in volumes)
    place = data.index(pairs["01Blur"]["0000003"].lq[-1000:]) + 500
    assert data.count(pairs["01Blur"]["0000003"].lq[-1000:]) == 1 and member.offset < place
    changed, start = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], 0
    for path in volumes:
        size = path.stat().st_size
        path.write_bytes(changed[start : start + size])
        start += size
    folder = converted(source, tmp_path / "data")
    assert rejected(folder).keys() == {"01Blur/0000003"} and "checksum" in rejected(folder)["01Blur/0000003"]
    assert len(samples(folder)) == 17


def test_a_header_is_believed_when_asked_to(pairs, tmp_path):
    source = write_group_folders(tmp_path / "source", spoilt(pairs, "0000003", WRONG["0000003"][0]))
    assert rejected(converted(source, tmp_path / "data", Options(shard_size=1, check="header"))) == {}


def test_orphans_and_a_shard_without_one_sound_pair(pairs, tmp_path):
    broken = {stem: MadePair(b"no image", ".png", b"no image", ".png") for stem in ("0000001", "0000002")}
    orphans = {"0000020": MadePair(b"", ".png", None, ".png")}
    source = write_group_folders(tmp_path / "source", {"01Blur": broken, "08Haze": pairs["08Haze"] | orphans})
    folder = converted(source, tmp_path / "data")
    assert rejected(folder).keys() == {"01Blur/0000001", "01Blur/0000002", "08Haze/0000020"}
    assert (folder / "01Blur-000000.tar").is_file() and (folder / "01Blur-000000.json").is_file()
    assert list(ShardIndex.load(folder).groups) == ["08Haze"]
    assert len(samples(folder)) == 17
    assert content(converted(source, tmp_path / "data")) == content(folder)


def test_a_vanished_source_stops_and_is_taken_up_again(source, pairs, tmp_path):
    copy = write_group_folders(tmp_path / "source", pairs)
    plan = planned(copy, tmp_path / "data")
    gone = next(iter((copy / "08Haze" / "GT").iterdir()))
    os.rename(gone, tmp_path / "aside")
    with pytest.raises(ConversionStoppedError, match=rf"{gone.name}.*\d of {len(plan.shards)} shards are finished.*mimdit shards foundir"):
        write_shards(plan)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").glob("*.tar")}
    assert 0 < len(finished) < len(plan.shards)
    os.rename(tmp_path / "aside", gone)
    folder = converted(copy, tmp_path / "data")
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    assert len(samples(folder)) == 54


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    return content(converted(source, tmp_path_factory.mktemp("whole") / "data"))


def test_a_second_run_gives_the_same_bytes(source, whole, tmp_path):
    assert content(converted(source, tmp_path / "data")) == whole


@pytest.mark.parametrize("parts", [2, 5, 20])
def test_parts_give_the_bytes_of_the_whole(source, whole, tmp_path, parts):
    assert content(converted(source, tmp_path / "data", parts=parts)) == whole


def test_three_processes_give_the_bytes_of_one(source, whole, tmp_path):
    assert content(converted(source, tmp_path / "data", workers=3)) == whole


def test_an_error_in_another_process_is_told_as_in_this_one(source, tmp_path):
    plan = planned(source, tmp_path / "data")
    plan.header["root"] = str(tmp_path / "elsewhere")
    with pytest.raises(ConversionStoppedError, match=r"elsewhere.*0 of \d+ shards are finished"):
        write_shards(plan, workers=2)


def test_a_part_is_every_nth_shard(source, tmp_path):
    plan = planned(source, tmp_path / "data")
    assert Part.parse("2/3").share(plan.shards) == [shard for place, shard in enumerate(plan.shards) if place % 3 == 1]
    write_shards(plan, part=Part(2, 3))
    assert {path.name for path in plan.folder.glob("*.tar")} == {shard.name for shard in Part(2, 3).share(plan.shards)}


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_part_that_is_none_is_named(text):
    with pytest.raises(ValueError, match=f"part is '{text}'"):
        Part.parse(text)


def test_what_is_done_is_kept_and_the_rest_written_again(source, whole, tmp_path):
    folder = converted(source, tmp_path / "data")
    kept, short, no_sidecar, damaged, *_ = sorted(folder.glob("*.tar"))
    short.write_bytes(short.read_bytes()[:1000])
    no_sidecar.with_suffix(".json").unlink()
    damaged.with_suffix(".json").write_text("{")
    before = kept.stat().st_mtime_ns
    assert content(converted(source, folder)) == whole
    assert kept.stat().st_mtime_ns == before


def test_only_what_killed_processes_left_of_the_own_shards_is_removed(source, tmp_path):
    plan = planned(source, tmp_path / "data")
    own, other = (part.share(plan.shards)[0].name for part in (Part(1, 2), Part(2, 2)))
    left = [f".{name}.12-ab.tmp" for name in (own, own.replace(".tar", ".json"), other, "plan.jsonl")]
    for name in left:
        (plan.folder / name).write_bytes(b"half")
    write_shards(plan, part=Part(1, 2))
    assert {path.name for path in plan.folder.glob(".*")} == set(left[2:])
    write_shards(plan, part=Part(2, 2))
    finalize(plan)
    assert list(plan.folder.glob(".*")) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("calls", [0, 3, 5])
def test_a_full_disk_stops_and_is_taken_up_again(source, whole, tmp_path, monkeypatch, code, calls):
    plan = planned(source, tmp_path / "data")
    sync, left = os.fsync, iter(range(calls))

    def until_full(descriptor):
        if next(left, None) is None:
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    message = f"{calls // 4} of {len(plan.shards)} shards are finished.*continue with"
    with monkeypatch.context() as patch, pytest.raises(ConversionStoppedError, match=message):
        patch.setattr(os, "fsync", until_full)
        write_shards(plan)
    assert list(plan.folder.glob(".*")) == []
    assert content(converted(source, plan.folder)) == whole


def test_every_group_is_begun_at_once_and_all_end_together():
    counts = {"01Blur": 12, "05Noise": 4, "08Haze": 8}
    shards = [ShardLine(f"{group}-{number:06d}.tar", group, 1, 1, 0) for group, count in counts.items() for number in range(count)]
    order = interleave_groups(shards)
    assert sorted(order, key=lambda shard: shard.name) == shards
    for end in range(6, 25, 6):
        for group, count in counts.items():
            assert abs(sum(shard.group == group for shard in order[:end]) - end * count / 24) <= 1


def test_missing_shards_are_counted_and_the_command_is_named(source, tmp_path):
    plan = planned(source, tmp_path / "data")
    write_shards(plan, part=Part(1, 2))
    missing = f"{len(plan.shards) // 2} of the {len(plan.shards)} shards .* {plan.shards[1].name} first"
    with pytest.raises(ValueError, match=rf"{missing}.*`mimdit shards foundir {source} {plan.folder} --shard_size=1`"):
        finalize(plan)
    assert not (plan.folder / "index.json").exists()


def test_the_index_lists_the_sidecars_and_says_how_it_was_made(source, tmp_path):
    index = ShardIndex.load(converted(source, tmp_path / "data"))
    assert index.samples == 54
    assert list(index.shards) == [Sidecar.load(path).entry for path in sorted((tmp_path / "data").glob("*.tar"))]
    expected = {"seed": 0, "shard_size": 1, "tile": None, "layout": "group folders", "versions": versions()}
    assert {name: index.options[name] for name in expected} == expected


def test_rejects_of_the_listing_and_of_the_shards_are_listed_by_group_and_stem(pairs, tmp_path):
    made = {group: dict(stems) for group, stems in pairs.items()}
    made["08Haze"]["0000030"] = MadePair(b"no image", ".png", b"no image", ".png")
    made["08Haze"]["0000025"] = made["08Haze"]["0000025"]._replace(gt=None)
    made["01Blur"]["0000002"] = MadePair(b"", ".png", b"", ".png")
    folder = converted(write_group_folders(tmp_path / "source", made), tmp_path / "data")
    lines = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert [(line["group"], line["name"]) for line in lines] == [("01Blur", "0000002"), ("08Haze", "0000025"), ("08Haze", "0000030")]
    assert "nothing" in lines[0]["reason"] and "no GT image" in lines[1]["reason"] and "6e 6f" in lines[2]["reason"]
