"""What is stored of the planned pairs: the bytes of the originals, whatever they came in."""

import hashlib
import os
import re
from functools import partial

import pytest

from datamodules.conversion.options import Options
from datamodules.conversion.write import read_images, write_shards
from datamodules.decoding import decode_image, decode_pair
from datamodules.degradations import GROUPS
from datamodules.shards import ShardIndex
from datamodules.shards.folder import ConversionStoppedError
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
