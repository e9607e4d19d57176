"""Central directories of archives in any number of volumes, cut anywhere."""

import io
import re
import struct
import subprocess
import zipfile

import pytest

from datamodules.sources.members import Member, MemberReader
from datamodules.sources.spanned_zip import list_members, volumes_of
from tests.datamodules.made_sources import ZIP, made_pairs, needs_zip, stored_files, zip_files
from tests.datamodules.made_zip import write_spanned_zip

SMALL = {"08Haze/": b"", "08Haze/GT/0000001.png": b"truth " * 9, "08Haze/LQ/0000001.JPG": bytes(range(70)), "08Haze/LQ/empty.png": b""}


def contents(archive):
    """Every file of an archive by name, read back."""
    with MemberReader(archive.parent) as reader:
        return {entry.name: reader.read(member_of(entry, archive)) for entry in list_members(archive)}


def member_of(entry, archive):
    return Member(entry.name, archive.name, entry.size, entry.offset, entry.compressed, entry.method, entry.crc)


def files_of(members):
    return {name: data for name, data in members.items() if not name.endswith("/")}


def group_files(group="08Haze"):
    return {f"{group}/{side}/{name}": data for side, name, data in stored_files(made_pairs((group,))[group])}


@pytest.mark.parametrize("zip64, deflate", [(False, False), (True, True)])
def test_a_cut_anywhere_changes_nothing(tmp_path, zip64, deflate):
    whole = write_spanned_zip(tmp_path / "whole.zip", SMALL, [], zip64=zip64, deflate=deflate)
    straddling = set()
    for cut in range(1, whole.spans["end"][0] + 1):
        made = write_spanned_zip(tmp_path / "08Haze.zip", SMALL, [cut], zip64=zip64, deflate=deflate)
        straddling |= made.straddling()
        assert contents(tmp_path / "08Haze.zip") == files_of(SMALL), f"cut at {cut}"
    records = {name for name, (start, stop) in whole.spans.items() if stop - start > 1}
    assert straddling == records - {"end"}


@pytest.mark.parametrize("zip64", [False, True])
def test_volumes_smaller_than_a_header(tmp_path, zip64):
    made = write_spanned_zip(tmp_path / "08Haze.zip", SMALL, 22, zip64=zip64, descriptors=True)
    assert len(made.volumes) > 20 and {"directory", "header of 08Haze/GT/0000001.png"} <= made.straddling()
    assert contents(tmp_path / "08Haze.zip") == files_of(SMALL)


@pytest.mark.parametrize("descriptors", [False, True])
@pytest.mark.parametrize("zip64", [False, True])
def test_pythons_zipfile_reads_what_the_made_writer_writes_as_one_volume(tmp_path, zip64, descriptors):
    write_spanned_zip(tmp_path / "08Haze.zip", SMALL, zip64=zip64, descriptors=descriptors)
    with zipfile.ZipFile(tmp_path / "08Haze.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == SMALL
    assert contents(tmp_path / "08Haze.zip") == files_of(SMALL)


def test_entries_are_those_that_pythons_zipfile_lists(tmp_path):
    class Pipe(io.RawIOBase):
        """A file that cannot seek: zipfile then writes data descriptors."""

        def __init__(self, file):
            self.write = file.write

        def writable(self):
            return True

    with open(tmp_path / "08Haze.zip", "wb") as file, zipfile.ZipFile(Pipe(file), "w") as archive:
        for number, method in enumerate([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]):
            archive.writestr(f"GT/grün {number}.png", b"some bytes" * number, method)
        archive.comment = b"a comment that looks like an end record PK\x05\x06" + bytes(30)
        infos = archive.infolist()
    entries = list_members(tmp_path / "08Haze.zip")
    assert [(e.name, e.size, e.offset, e.compressed, e.method, e.crc, e.encrypted) for e in entries] == [
        (i.filename, i.file_size, i.header_offset, i.compress_size, i.compress_type, i.CRC, False) for i in infos
    ]
    assert [entry.obstacle is None for entry in entries] == [True, True, False, False]
    assert "bzip2" in entries[2].obstacle and "lzma" in entries[3].obstacle


def test_offsets_beyond_four_gigabytes(tmp_path):
    with open(tmp_path / "08Haze.zip", "wb") as file:
        file.seek(5 << 30)  # a hole: no disk is used
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("GT/0000001.png", b"far away")
    (entry,) = list_members(tmp_path / "08Haze.zip")
    assert entry.offset == 5 << 30
    assert contents(tmp_path / "08Haze.zip") == {"GT/0000001.png": b"far away"}


@needs_zip
@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("deflate", [False, True])
def test_debians_zip_and_the_made_writer_are_read_alike(tmp_path, zip64, deflate):
    files = group_files()
    zip_files(tmp_path / "zip" / "08Haze.zip", files, split="128k", zip64=zip64, deflate=deflate)
    write_spanned_zip(tmp_path / "made" / "08Haze.zip", files, 128 << 10, zip64=zip64, deflate=deflate)
    assert contents(tmp_path / "zip" / "08Haze.zip") == contents(tmp_path / "made" / "08Haze.zip") == files


@needs_zip
def test_debians_zip_puts_members_across_volumes(tmp_path):
    zip_files(tmp_path / "08Haze.zip", group_files(), split="128k", zip64=True)
    sizes = [path.stat().st_size for path in volumes_of(tmp_path / "08Haze.zip")]
    assert sizes[:-1] == [128 << 10] * (len(sizes) - 1) and len(sizes) > 2
    cuts = [sum(sizes[:number]) for number in range(1, len(sizes))]
    entries = list_members(tmp_path / "08Haze.zip")
    inside_data = [entry for entry in entries if any(200 < cut - entry.offset < entry.compressed for cut in cuts)]
    assert len(inside_data) >= 2


@needs_zip
@pytest.mark.parametrize("zip64", [False, True])
def test_debians_zip_joins_the_volumes_of_the_made_writer(tmp_path, zip64):
    write_spanned_zip(tmp_path / "08Haze.zip", group_files(), 128 << 10, zip64=zip64)
    subprocess.run([ZIP, "-q", "-s", "0", tmp_path / "08Haze.zip", "--out", tmp_path / "joined.zip"], check=True, timeout=60)
    with zipfile.ZipFile(tmp_path / "joined.zip") as joined:
        assert {name: joined.read(name) for name in joined.namelist()} == group_files()


@needs_zip
def test_an_encrypted_member_is_listed_as_such(tmp_path):
    (tmp_path / "1.png").write_bytes(b"secret")
    subprocess.run([ZIP, "-q", "-P", "password", "08Haze.zip", "1.png"], cwd=tmp_path, check=True, timeout=60)
    assert [entry.obstacle for entry in list_members(tmp_path / "08Haze.zip")] == ["encrypted"]


def test_volumes_are_in_the_order_of_their_numbers_in_any_case(tmp_path):
    names = [f"08Haze.z{number:02d}" for number in range(1, 102)]
    names[1] = "08Haze.Z02"
    for name in [*names, "08Haze.zip", "08Haze2.z01", "08Haze.z01.part", "108Haze.z07"]:
        (tmp_path / name).touch()
    assert [path.name for path in volumes_of(tmp_path / "08Haze.zip")] == [*names, "08Haze.zip"]


@pytest.mark.parametrize("lost", range(4))
def test_a_volume_that_is_missing_is_named(tmp_path, lost):
    made = write_spanned_zip(tmp_path / "08Haze.zip", SMALL, 100)
    assert len(made.volumes) > 4
    lost = [0, 1, len(made.volumes) - 2, len(made.volumes) - 1][lost]
    made.volumes[lost].unlink()
    with pytest.raises(ValueError, match=rf"{re.escape(made.volumes[lost].name)}.*missing|lacks the volume {made.volumes[lost].name} "):
        list_members(tmp_path / "08Haze.zip")


def test_a_volume_that_is_there_twice_is_named(tmp_path):
    for name in ("08Haze.z01", "08Haze.Z1", "08Haze.zip"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"08Haze\.Z1 and 08Haze\.z01 are both volume 1 of 08Haze\.zip"):
        volumes_of(tmp_path / "08Haze.zip")


def test_a_volume_of_another_archive_is_named(tmp_path):
    write_spanned_zip(tmp_path / "08Haze.zip", SMALL)
    (tmp_path / "08Haze.z01").write_bytes(b"old")
    with pytest.raises(ValueError, match=r"written in 1 volumes, and 08Haze\.z01 beside it is none of them"):
        list_members(tmp_path / "08Haze.zip")


def test_volumes_joined_to_one_file_are_refused(tmp_path):
    made = write_spanned_zip(tmp_path / "08Haze.zip", SMALL, 200, zip64=True)
    joined = b"".join(path.read_bytes() for path in made.volumes)
    for path in made.volumes:
        path.unlink()
    (tmp_path / "08Haze.zip").write_bytes(joined)
    with pytest.raises(ValueError, match=r"08Haze\.z01, .* is missing.*a file that joins all volumes cannot be read"):
        list_members(tmp_path / "08Haze.zip")


@pytest.mark.parametrize("lost, why", [(5000, "reaches 4.* bytes into what comes next"), (131000, "the archive's directory names byte")])
def test_a_volume_cut_short_by_much_is_named(tmp_path, lost, why):
    made = write_spanned_zip(tmp_path / "08Haze.zip", group_files(), 128 << 10)
    made.volumes[1].write_bytes(made.volumes[1].read_bytes()[:-lost])
    with pytest.raises(ValueError, match=rf"08Haze\.z02 is cut short: it has {131072 - lost} bytes, and .*{why}"):
        list_members(tmp_path / "08Haze.zip")


@pytest.mark.parametrize("kept", [0, 10, 21, 60])
def test_a_last_volume_cut_short_is_named(tmp_path, kept):
    made = write_spanned_zip(tmp_path / "08Haze.zip", SMALL, [100])
    whole = made.volumes[-1].read_bytes()
    made.volumes[-1].write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"08Haze\.zip cannot be listed: it has no end record"):
        list_members(tmp_path / "08Haze.zip")


@pytest.mark.parametrize(
    "record, byte, message",
    [
        ("directory", 0, "entry 0 of its directory is not one"),
        ("directory", 32, "entry 1 of its directory is not one"),  # the length of the first comment
        ("zip64 end", 32, "its directory has 4 entries and its end record 251"),
        ("zip64 end", 41, "its directory of .* bytes does not fit before its end record"),
        ("zip64 end", 1, "Zip64 end record is not at its recorded place"),
        ("end", 1, "no end record"),
    ],
)
def test_a_damaged_directory_is_named(tmp_path, record, byte, message):
    made = write_spanned_zip(tmp_path / "08Haze.zip", SMALL, [100], zip64=True)
    path, place = made.place(record, byte)
    flip(path, place)
    with pytest.raises(ValueError, match=rf"08Haze\.zip cannot be listed: .*{message}"):
        list_members(tmp_path / "08Haze.zip")


def test_a_directory_without_its_zip64_fields_is_named(tmp_path):
    made = write_spanned_zip(tmp_path / "08Haze.zip", SMALL, [100], zip64=True)
    path, place = made.place("directory", 46 + len("08Haze/") + 9)  # the kind of the first entry's second extra field
    flip(path, place)
    with pytest.raises(ValueError, match=r"08Haze\.zip cannot be listed: its directory lacks the Zip64 fields of entry 0"):
        list_members(tmp_path / "08Haze.zip")


@pytest.mark.parametrize("field", [0, 1, 2, 3])
def test_the_zip64_record_holds_only_the_fields_that_are_all_ones(tmp_path, field):
    made = write_spanned_zip(tmp_path / "08Haze.zip", SMALL, [90], zip64=True, deflate=False)
    before = list_members(tmp_path / "08Haze.zip")
    name = "08Haze/LQ/0000001.JPG"
    whole = bytearray(made.volumes[-1].read_bytes())
    entry = whole.rfind(name.encode()) - 46
    zip64 = entry + 46 + len(name) + 9
    values = struct.unpack_from("<3QI", whole, zip64 + 4)
    for number, (form, place) in enumerate([("<I", 24), ("<I", 20), ("<I", 42), ("<H", 34)]):
        if number != field:
            struct.pack_into(form, whole, entry + place, values[number])
    kept = struct.pack("<Q" if field < 3 else "<I", values[field])
    filler = struct.pack("<2H", 0xCAFE, 24 - len(kept)) + bytes(24 - len(kept))
    whole[zip64 : zip64 + 32] = struct.pack("<2H", 1, len(kept)) + kept + filler
    made.volumes[-1].write_bytes(whole)
    assert values[3] == 1 and list_members(tmp_path / "08Haze.zip") == before


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
