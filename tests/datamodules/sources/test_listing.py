"""What a source holds: the same pairs in every layout, and the reason for everything that is no pair."""

import dataclasses
import zipfile

import pytest

from datamodules.sources.listing import Listing, Reject, list_meta, list_pair_folders, list_pairs
from datamodules.sources.members import MemberReader
from tests.datamodules.made_sources import (
    GROUPS,
    made_pairs,
    needs_zip,
    write_archives,
    write_files,
    write_group_folders,
    write_meta,
    write_side_folders,
)
from tests.datamodules.made_zip import write_spanned_zip

SMALL = made_pairs(GROUPS, 6, 16)
TREES = {"group folders": write_group_folders, "side folders": write_side_folders}
DEBIANS = pytest.param("zip", marks=needs_zip)


def contents(listing: Listing) -> dict[str, dict[str, tuple[bytes, bytes]]]:
    """Every pair's bytes by group and stem, read back."""
    found: dict[str, dict[str, tuple[bytes, bytes]]] = {}
    with MemberReader(listing.root, listing.files) as reader:
        for pair in listing.pairs:
            found.setdefault(pair.group, {})[pair.stem] = (reader.read(pair.lq), reader.read(pair.gt))
    return found


def expected(pairs):
    return {group: {stem: (pair.lq, pair.gt) for stem, pair in stems.items()} for group, stems in pairs.items()}


def archive_of(path, *names):
    """An archive in one volume whose files hold their own names."""
    write_spanned_zip(path, {name: name.encode() for name in names})


@pytest.mark.parametrize("tool", ["python", DEBIANS])
@pytest.mark.parametrize("options", [{}, {"zip64": True}, {"deflate": False, "top_folder": False}, {"split": None, "zip64": True}])
def test_archives_give_the_made_pairs(tmp_path, tool, options):
    pairs = made_pairs()
    listing = list_pairs(write_archives(tmp_path, pairs, tool=tool, **options))
    assert contents(listing) == expected(pairs)
    assert listing.layout == "archives" and listing.rejects == () and listing.skipped == ()
    assert listing.files == {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert len(listing.files) == (3 if options.get("split", "128k") is None else 12)


@pytest.mark.parametrize("layout", TREES)
def test_folders_give_the_made_pairs(tmp_path, layout):
    listing = list_pairs(TREES[layout](tmp_path, SMALL))
    assert contents(listing) == expected(SMALL)
    assert (listing.layout, listing.rejects, listing.files, listing.skipped) == (layout, (), {}, ())


@pytest.mark.parametrize("side_first", [False, True])
def test_a_list_gives_the_made_pairs(tmp_path, side_first):
    (write_side_folders if side_first else write_group_folders)(tmp_path, SMALL)
    meta = write_meta(tmp_path / "Train_meta_info.txt", SMALL, side_first=side_first)
    listing = list_pairs(meta)
    assert contents(listing) == expected(SMALL)
    assert (listing.layout, listing.files) == ("list", {"Train_meta_info.txt": meta.stat().st_size})
    elsewhere = list_meta(tmp_path, write_meta(tmp_path / "lists" / "a.txt", SMALL, side_first=side_first))
    assert elsewhere.pairs == listing.pairs and list(elsewhere.files) == ["lists/a.txt"]


def test_a_list_beside_the_groups_is_left_alone(tmp_path):
    write_meta(tmp_path / "Train_meta_info.txt", {"01Blur": SMALL["01Blur"]})
    assert list_pairs(write_group_folders(tmp_path, SMALL)).layout == "group folders"


def test_two_folders_give_the_made_pairs(tmp_path):
    write_side_folders(tmp_path, {"08Haze": SMALL["08Haze"], "01Blur": SMALL["01Blur"]})
    listing = list_pair_folders(tmp_path / "LQ" / "08Haze", tmp_path / "GT" / "08Haze", group="Haze")
    assert contents(listing) == {"Haze": expected(SMALL)["08Haze"]}
    assert (listing.layout, listing.root, listing.pairs[0].lq.source) == ("pair folders", tmp_path, "LQ/08Haze/0000007.png")
    nested = list_pair_folders(tmp_path / "LQ", tmp_path / "GT", group="Haze")
    assert {pair.stem for pair in nested.pairs} == {f"{group}/{stem}" for group in ("01Blur", "08Haze") for stem in SMALL[group]}


def test_pairs_are_sorted_and_name_their_files(tmp_path):
    listing = list_pairs(write_group_folders(tmp_path, SMALL))
    assert [(pair.group, pair.stem) for pair in listing.pairs] == [(group, stem) for group in SMALL for stem in SMALL[group]]
    second = listing.pairs[1]
    assert (second.lq.source, second.gt.source) == ("01Blur/LQ/0000002.JPG", "01Blur/GT/0000002.png")


def write_in_archives(root, pairs):
    return write_archives(root, pairs, tool="python")


@pytest.mark.parametrize("write", [*TREES.values(), write_in_archives])
def test_orphans_are_rejected(tmp_path, write):
    haze = dict(SMALL["08Haze"])
    haze["0000007"] = haze["0000007"]._replace(gt=None)
    haze["0000009"] = haze["0000009"]._replace(lq=None)
    listing = list_pairs(write(tmp_path, {**SMALL, "08Haze": haze}))
    assert [(reject.group, reject.name) for reject in listing.rejects] == [("08Haze", "0000007"), ("08Haze", "0000009")]
    first, second = listing.rejects
    assert first.reason.startswith("no GT image of this stem, only ") and first.reason.endswith("0000007.png")
    assert second.reason.startswith("no LQ image of this stem, only ") and second.reason.endswith("0000009.jpg")
    del haze["0000007"], haze["0000009"]
    assert contents(listing) == expected({**SMALL, "08Haze": haze})


@pytest.mark.parametrize("write", [*TREES.values(), write_in_archives])
def test_a_group_without_one_of_its_folders_is_all_orphans(tmp_path, write):
    degraded_only = {stem: pair._replace(gt=None) for stem, pair in SMALL["08Haze"].items()}
    listing = list_pairs(write(tmp_path, {**SMALL, "08Haze": degraded_only}))
    assert {reject.name for reject in listing.rejects} == set(degraded_only)
    assert {pair.group for pair in listing.pairs} == {"01Blur", "12NightRain"}


DOUBLE = ("GT/1.png", "LQ/1.png", "LQ/1.JPG", "GT/2.png", "LQ/2.jpg")


def test_two_images_of_one_stem_are_rejected(tmp_path):
    archive_of(tmp_path / "archives" / "08Haze.zip", *DOUBLE)
    write_files(tmp_path / "folders" / "08Haze", {name: b"image" for name in DOUBLE})
    for folder, above in (("archives", ""), ("folders", "08Haze/")):
        listing = list_pairs(tmp_path / folder)
        assert [pair.stem for pair in listing.pairs] == ["2"]
        assert listing.rejects == (Reject("08Haze", "1", f"2 LQ images of this stem: {above}LQ/1.JPG, {above}LQ/1.png"),)


def test_what_is_no_image_is_ignored(tmp_path):
    clutter = ["GT/Thumbs.db", "GT/.1.png", "LQ/.hidden/1.png", "LQ/README", "LQ/.DS_Store", "GT/notes.txt"]
    pair = ["gt/1.PNG", "Lq/1.TiFF"]
    archive_of(tmp_path / "archives" / "08Haze.zip", *pair, *clutter, "__MACOSX/GT/._1.png", "__MACOSX/GT/2.png", "/GT/2.png")
    write_files(tmp_path / "folders" / "08Haze", {name: b"image" for name in [*pair, *clutter]})
    write_files(tmp_path / "folders", {".cache/GT/1.png": b"image", ".cache/LQ/1.png": b"image"})
    for folder in ("archives", "folders"):
        listing = list_pairs(tmp_path / folder)
        assert [pair.stem for pair in listing.pairs] == ["1"] and listing.rejects == () and listing.skipped == ()


def test_members_that_cannot_be_read_are_rejected_with_the_reason(tmp_path):
    with zipfile.ZipFile(tmp_path / "08Haze.zip", "w") as archive:
        for name, method in (("GT/1.png", 0), ("LQ/1.png", zipfile.ZIP_LZMA), ("GT/2.png", 8), ("LQ/2.png", 0)):
            archive.writestr(name, b"image", method)
    listing = list_pairs(tmp_path)
    assert [pair.stem for pair in listing.pairs] == ["2"]
    (reject,) = listing.rejects
    assert reject.reason == "LQ/1.png is compressed by method 14 (lzma); stored and deflated files are read"


def test_a_dot_before_the_folders_of_an_archive_means_nothing(tmp_path):
    archive_of(tmp_path / "08Haze.zip", "./08Haze/GT/1.png", "./08Haze/LQ/1.png")
    assert contents(list_pairs(tmp_path)) == {"08Haze": {"1": (b"./08Haze/LQ/1.png", b"./08Haze/GT/1.png")}}


def test_images_elsewhere_in_an_archive_are_counted(tmp_path):
    archive_of(tmp_path / "08Haze.zip", "GT/1.png", "LQ/1.png", "mask/1.png", "08Haze.png", "GT.png")
    assert list_pairs(tmp_path).skipped == ("08Haze.zip: 3 images in neither GT/ nor LQ/, such as mask/1.png",)


def test_an_archive_without_gt_and_lq_is_refused(tmp_path):
    archive_of(tmp_path / "08Haze.zip", "09Lowlight_Haze/GT/1.png", "09Lowlight_Haze/LQ/1.png")
    with pytest.raises(ValueError, match=r"08Haze\.zip holds no image in GT/ or LQ/, .* 2 elsewhere, such as 09Lowlight_Haze/GT/1\.png"):
        list_pairs(tmp_path)


def test_the_total_archive_is_skipped(tmp_path):
    write_in_archives(tmp_path, SMALL)
    (tmp_path / "01Blur_total.zip").write_bytes(b"all volumes")
    listing = list_pairs(tmp_path)
    assert listing.skipped == ("01Blur_total.zip (duplicate of 01Blur.zip)",)
    assert "01Blur_total.zip" not in listing.files and contents(listing) == expected(SMALL)


def test_a_total_archive_alone_is_explained(tmp_path):
    write_in_archives(tmp_path, {"08Haze": SMALL["08Haze"]})
    (tmp_path / "01Blur_total.zip").write_bytes(b"all volumes")
    with pytest.raises(ValueError, match=r"01Blur_total\.zip cannot be opened: .*Download 01Blur\.z01, .* and 01Blur\.zip instead"):
        list_pairs(tmp_path)
    assert {pair.group for pair in list_pairs(tmp_path, groups=["08Haze"]).pairs} == {"08Haze"}


def test_volumes_without_their_last_are_named(tmp_path):
    write_in_archives(tmp_path, made_pairs(("01Blur", "08Haze")))
    (tmp_path / "08Haze.zip").unlink()
    with pytest.raises(ValueError, match=r"08Haze\.z01 is a volume of an archive whose last volume, 08Haze\.zip, is missing"):
        list_pairs(tmp_path)


def test_two_archives_of_one_group_are_refused(tmp_path):
    for suffix in (".zip", ".ZIP"):
        archive_of(tmp_path / f"08Haze{suffix}", "GT/1.png", "LQ/1.png")
    with pytest.raises(ValueError, match=r"08Haze\.ZIP and 08Haze\.zip are both the archive of 08Haze"):
        list_pairs(tmp_path)


@pytest.mark.parametrize("write", [*TREES.values(), write_in_archives])
def test_only_the_chosen_groups_are_listed(tmp_path, write):
    listing = list_pairs(write(tmp_path, SMALL), groups=["12NightRain", "01Blur"])
    assert contents(listing) == {group: expected(SMALL)[group] for group in ("01Blur", "12NightRain")}
    assert not any(name.startswith("08Haze") for name in listing.files)
    with pytest.raises(ValueError, match=r"has no group 05Noise, 8Haze\. It has 01Blur, 08Haze, 12NightRain\."):
        list_pairs(tmp_path, groups=["05Noise", "8Haze", "01Blur"])


def test_groups_are_chosen_from_a_list_too(tmp_path):
    meta = write_meta(write_group_folders(tmp_path, SMALL) / "list.txt", SMALL)
    assert contents(list_pairs(meta, groups=["08Haze"])) == {"08Haze": expected(SMALL)["08Haze"]}
    with pytest.raises(ValueError, match=r"has no group 05Noise\. It has 01Blur, 08Haze, 12NightRain\."):
        list_pairs(meta, groups=["05Noise"])


def test_other_archives_and_folders_are_named(tmp_path):
    write_group_folders(tmp_path, {"08Haze": SMALL["08Haze"]})
    write_files(tmp_path, {"weights.zip": b"", "08Hase/GT/1.png": b"", "notes/1.txt": b""})
    assert list_pairs(tmp_path).skipped == ("08Hase (not named as a group)", "weights.zip (not named as a group)")


def test_two_layouts_at_once_are_refused(tmp_path):
    write_in_archives(tmp_path, {"01Blur": SMALL["01Blur"]})
    write_side_folders(tmp_path, {"08Haze": SMALL["08Haze"]})
    with pytest.raises(ValueError, match=r"more than one layout \(archives: 01Blur; side folders: 08Haze\)"):
        list_pairs(tmp_path)


@pytest.mark.parametrize("names", [[], ["GT/1.png", "LQ/1.png"], ["GT.zip"], ["Train/08Haze/GT/1.png", "Train/08Haze/LQ/1.png"]])
def test_no_layout_says_what_was_looked_for(tmp_path, names):
    write_files(tmp_path, {name: b"" for name in names})
    with pytest.raises(ValueError, match=r"no data set in a layout of FoundIR\. Looked for archives <group>\.zip .*mimdit shards pairs"):
        list_pairs(tmp_path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere is neither a folder nor a .txt list"):
        list_pairs(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        list_pair_folders(tmp_path, tmp_path / "nowhere", group="Haze")
    with pytest.raises(ValueError, match=r"nowhere\.txt cannot be read as a list"):
        list_meta(tmp_path, tmp_path / "nowhere.txt")


def test_folders_without_a_pair_show_some_of_their_files(tmp_path):
    write_files(tmp_path, {"hazy/1_0.8.png": b"", "clear/1.png": b""})
    with pytest.raises(ValueError, match=r"(?s)holds no pair .*Haze/1: no LQ image of this stem, only clear/1\.png\n.*Haze/1_0\.8: no GT"):
        list_pair_folders(tmp_path / "hazy", tmp_path / "clear", group="Haze")


def test_two_folders_of_which_one_lies_in_the_other_are_refused(tmp_path):
    write_files(tmp_path, {"1.png": b"", "gt/1.png": b""})
    for lq, gt in ((tmp_path, tmp_path / "gt"), (tmp_path / "gt", tmp_path), (tmp_path, tmp_path)):
        with pytest.raises(ValueError, match="must be separate"):
            list_pair_folders(lq, gt, group="Haze")


def test_two_folders_need_a_group_that_says_what_is_wrong_with_them(tmp_path):
    with pytest.raises(ValueError, match="unknown part 'Fog'"):
        list_pair_folders(tmp_path, tmp_path, group="Fog")


def test_the_fingerprint_tells_sources_apart_and_not_where_they_lie(tmp_path):
    listing = list_pairs(write_group_folders(tmp_path / "here", SMALL))
    assert list_pairs(write_group_folders(tmp_path / "there", SMALL)).fingerprint == listing.fingerprint
    assert listing.fingerprint != list_pairs(write_side_folders(tmp_path / "sides", SMALL)).fingerprint
    first, *others = listing.pairs
    longer = dataclasses.replace(first, lq=dataclasses.replace(first.lq, size=first.lq.size + 1))
    changes = {"pairs": (longer, *others), "rejects": (Reject("08Haze", "1", "why"),), "files": {"08Haze.zip": 1}, "layout": "archives"}
    changed = {dataclasses.replace(listing, **{field: value}).fingerprint for field, value in changes.items()}
    assert len(changed | {listing.fingerprint}) == 5
