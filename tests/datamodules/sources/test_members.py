"""Reading stored files: whole and checked, or refused with the reason."""

import json
import os
import re
import struct
import tracemalloc

import pytest

from datamodules.sources import members
from datamodules.sources.listing import list_pairs
from datamodules.sources.members import CorruptMemberError, Member, MemberReader, SourceGoneError
from datamodules.sources.spanned_zip import list_members
from tests.datamodules.made_sources import made_pairs, write_archives, write_group_folders
from tests.datamodules.made_zip import write_spanned_zip

FILES = {"GT/1.png": b"the truth, the truth, the truth", "LQ/1.png": bytes(range(200))}


def made(folder, volumes=(150, 400), **options):
    """Write `FILES` as an archive and return it, with its members by name."""
    archive = write_spanned_zip(folder / "08Haze.zip", FILES, volumes, **options)
    entries = list_members(folder / "08Haze.zip")
    return archive, {e.name: Member(e.name, "08Haze.zip", e.size, e.offset, e.compressed, e.method, e.crc) for e in entries}


def overwrite(path, place, data):
    whole = bytearray(path.read_bytes())
    whole[place : place + len(data)] = data
    path.write_bytes(whole)


@pytest.mark.parametrize("member", [Member("a/b.png", "a/b.png", 5), Member("GT/1.png", "08Haze.zip", 5, 1 << 40, 3, 8, 0xFFFFFFFF)])
def test_a_member_survives_json(member):
    assert Member.from_list(json.loads(json.dumps(member.to_list()))) == member


def test_one_read_per_volume_that_a_member_lies_in(tmp_path, monkeypatch):
    archive, listed = made(tmp_path)
    assert {"data of LQ/1.png"} == {name for name in archive.straddling() if name.startswith("data")}
    reads = []

    def pread(descriptor, length, offset, real=os.pread):
        reads.append(offset)
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    with MemberReader(tmp_path) as reader:
        for name, count in (("GT/1.png", 1), ("LQ/1.png", 2)):
            reads.clear()
            assert reader.read(listed[name]) == FILES[name]
            assert len(reads) == count


def test_an_extra_field_longer_than_expected_costs_another_read(tmp_path):
    data = bytes(range(256))
    write_spanned_zip(tmp_path / "a.zip", {"1.png": data}, deflate=False)
    whole = (tmp_path / "a.zip").read_bytes()
    start = 30 + len("1.png")
    longer = whole[:28] + struct.pack("<H", 5000) + whole[30:start] + bytes(5000) + data
    end_of_data = start + 13 + len(data)  # the made writer's own extra field has 13 bytes
    directory = whole[end_of_data:]
    end = directory[:-6] + struct.pack("<IH", len(longer), 0)
    (tmp_path / "a.zip").write_bytes(longer + end)
    (entry,) = list_members(tmp_path / "a.zip")
    member = Member(entry.name, "a.zip", entry.size, entry.offset, entry.compressed, entry.method, entry.crc)
    with MemberReader(tmp_path) as reader:
        assert reader.read(member) == data


@pytest.mark.parametrize("deflate", [False, True])
def test_a_flipped_byte_of_data_is_noticed(tmp_path, deflate):
    archive, listed = made(tmp_path, deflate=deflate)
    start, stop = archive.spans["data of GT/1.png"]
    with MemberReader(tmp_path) as reader:
        for byte in range(stop - start - 1):  # in the last one deflate may have bits that mean nothing
            path, place = archive.place("data of GT/1.png", byte)
            whole = path.read_bytes()
            overwrite(path, place, bytes([whole[place] ^ 0x40]))
            with pytest.raises(CorruptMemberError, match=r"^GT/1\.png in 08Haze\.zip is corrupt: it"):
                reader.read(listed["GT/1.png"])
            path.write_bytes(whole)
        assert reader.read(listed["GT/1.png"]) == FILES["GT/1.png"]


@pytest.mark.parametrize(
    "byte, value, message",
    [
        (0, b"X", "local header is not one"),
        (8, b"\x00", "local header has method 0 .* the directory method 8"),
        (6, b"\x01", "local header has method 8 and flags 0x1"),
        (26, b"\xff\xff", "local header leads beyond the archive"),
    ],
)
def test_a_bad_local_header_is_noticed(tmp_path, byte, value, message):
    archive, listed = made(tmp_path, None)
    overwrite(tmp_path / "08Haze.zip", archive.place("header of LQ/1.png", byte)[1], value)
    with MemberReader(tmp_path) as reader:
        with pytest.raises(CorruptMemberError, match=f"LQ/1.png in 08Haze.zip is corrupt: its {message}"):
            reader.read(listed["LQ/1.png"])
        assert reader.read(listed["GT/1.png"]) == FILES["GT/1.png"]


@pytest.mark.parametrize("size, message", [(30, "it holds more than 30 bytes"), (32, "it holds 31 bytes instead of 32")])
def test_a_size_other_than_listed_is_noticed(tmp_path, size, message):
    listed = made(tmp_path)[1]["GT/1.png"]
    wrong = Member(listed.name, listed.source, size, listed.offset, listed.compressed, listed.method, listed.crc)
    with MemberReader(tmp_path) as reader, pytest.raises(CorruptMemberError, match=message):
        reader.read(wrong)


def test_what_a_bomb_holds_is_not_unpacked(tmp_path):
    write_spanned_zip(tmp_path / "a.zip", {"1.png": bytes(1 << 25)})
    (entry,) = list_members(tmp_path / "a.zip")
    member = Member(entry.name, "a.zip", 1000, entry.offset, entry.compressed, entry.method, entry.crc)
    tracemalloc.start()
    with MemberReader(tmp_path) as reader, pytest.raises(CorruptMemberError, match="more than 1000 bytes"):
        reader.read(member)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_deflated_data_that_ends_early_is_noticed(tmp_path):
    listed = made(tmp_path)[1]["GT/1.png"]
    short = Member(listed.name, listed.source, listed.size, listed.offset, listed.compressed - 2, listed.method, listed.crc)
    with MemberReader(tmp_path) as reader, pytest.raises(CorruptMemberError, match="deflated data ends early, after"):
        reader.read(short)


def test_a_file_that_changed_since_it_was_listed_is_refused(tmp_path):
    root = write_group_folders(tmp_path, made_pairs(("08Haze",), 2, 16))
    first, second = list_pairs(root).pairs
    (root / first.lq.source).write_bytes(b"12345")
    (root / second.gt.source).unlink()
    with MemberReader(root) as reader:
        with pytest.raises(SourceGoneError, match=rf"{first.lq.source} has 5 bytes and had {first.lq.size} when it was listed"):
            reader.read(first.lq)
        with pytest.raises(SourceGoneError, match=rf"{second.gt.source} cannot be opened \(No such file"):
            reader.read(second.gt)


def archives(tmp_path):
    root = write_archives(tmp_path / "archives", made_pairs(("01Blur",)), tool="python")
    return root, list_pairs(root)


@pytest.mark.parametrize("lost", ["01Blur.z01", "01Blur.z03", "01Blur.zip"])
def test_a_volume_that_vanished_since_it_was_listed_is_refused(tmp_path, lost):
    root, listing = archives(tmp_path)
    (root / lost).unlink()
    name = re.escape(lost)
    with MemberReader(root) as reader, pytest.raises(SourceGoneError, match=rf"{name}.* missing|lacks the volume {name}"):
        reader.read(listing.pairs[0].gt)


@pytest.mark.parametrize("lost", ["01Blur.z01", "01Blur.z02"])
def test_a_volume_that_was_cut_short_since_it_was_listed_is_refused(tmp_path, lost):
    root, listing = archives(tmp_path)
    (root / lost).write_bytes((root / lost).read_bytes()[:-1])
    message = rf"{re.escape(lost)} has 131071 bytes and had 131072 when it was listed"
    with MemberReader(root, listing.files) as reader, pytest.raises(SourceGoneError, match=message):
        reader.read(listing.pairs[-1].gt)


def test_a_volume_cut_short_while_it_is_read_is_refused(tmp_path):
    root, listing = archives(tmp_path)
    with MemberReader(root, listing.files) as reader:
        reader.read(listing.pairs[0].gt)
        os.truncate(root / "01Blur.z01", 1000)
        with pytest.raises(SourceGoneError, match=r"01Blur\.z01 ends at byte 1000, \d+ bytes before what was listed"):
            reader.read(listing.pairs[0].gt)


def test_an_archive_that_is_another_one_now_is_refused(tmp_path):
    root, listing = archives(tmp_path)
    for path in root.iterdir():
        path.unlink()
    write_spanned_zip(root / "01Blur.zip", FILES)
    with MemberReader(root, listing.files) as reader, pytest.raises(SourceGoneError, match=r"01Blur\.zip has .* when it was listed"):
        reader.read(listing.pairs[-1].gt)
    with MemberReader(root) as reader, pytest.raises(SourceGoneError, match=r"01Blur\.zip ends before 01Blur/GT/0000006\.JPG"):
        reader.read(listing.pairs[-1].gt)


def test_a_disk_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    root, listing = archives(tmp_path)

    def pread(*arguments):
        raise OSError(5, "Input/output error")

    with MemberReader(root) as reader:
        reader.read(listing.pairs[0].gt)
        monkeypatch.setattr(os, "pread", pread)
        with pytest.raises(SourceGoneError, match=r"01Blur\.z01 cannot be read at byte \d+ \(Input/output error\)"):
            reader.read(listing.pairs[0].gt)


def test_few_volumes_are_open_at_once_and_none_after_closing(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "MOST_DESCRIPTORS", 3)
    archive, listed = made(tmp_path, 60)
    assert len(archive.volumes) > 6
    before = len(os.listdir("/dev/fd"))
    with MemberReader(tmp_path) as reader:
        for _ in range(2):
            assert {name: reader.read(member) for name, member in listed.items()} == FILES
        assert len(os.listdir("/dev/fd")) == before + 3
    assert len(os.listdir("/dev/fd")) == before


def test_the_volume_that_was_not_used_for_longest_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "MOST_DESCRIPTORS", 2)
    listed = {}
    for name in "abc":
        write_spanned_zip(tmp_path / f"{name}.zip", {"1.png": name.encode()})
        (entry,) = list_members(tmp_path / f"{name}.zip")
        listed[name] = Member("1.png", f"{name}.zip", entry.size, entry.offset, entry.compressed, entry.method, entry.crc)
    opened = []

    def open_(path, *arguments, real=os.open):
        opened.append(path.stem)
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", open_)
    with MemberReader(tmp_path) as reader:
        assert b"".join(reader.read(listed[name]) for name in "abacab") == b"abacab"
    assert "".join(opened) == "abcb"
