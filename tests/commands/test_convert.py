"""``mimdit shards foundir|pairs|finalize|verify``: what the commands print, write and refuse."""

import inspect

import pytest

from datamodules.shards import ShardIndex
from mimdit import cli
from mimdit.commands.convert import finalize, foundir, pairs, verify
from tests.datamodules.made_sources import made_pairs, write_archives, write_group_folders

SMALL = {"shard_size": 1, "workers": 1}


@pytest.fixture(scope="module")
def made():
    return made_pairs(("01Blur", "08Haze"), count=18, side=160)


@pytest.fixture(scope="module")
def archives(made, tmp_path_factory):
    return write_archives(tmp_path_factory.mktemp("archives"), made)


@pytest.fixture(scope="module")
def folders(made, tmp_path_factory):
    return write_group_folders(tmp_path_factory.mktemp("folders"), made)


@pytest.mark.parametrize("options", [{}, {"tile": 64}])
def test_a_dry_run_tells_and_writes_nothing(archives, tmp_path, capsys, options):
    foundir(str(archives), str(tmp_path / "data"), **SMALL, dry_run=True, **options)
    said = capsys.readouterr().out
    for told in ("archives", "01Blur", "08Haze", "rejected so far: 0", "GiB needed", "GiB free", "an estimate"):
        assert told in said
    assert ("tiles take" in said) == bool(options)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_what_is_done(archives, tmp_path, capsys):
    foundir(str(archives), str(tmp_path), **SMALL, part="1/2")
    foundir(str(archives), str(tmp_path), **SMALL, dry_run=True)
    assert "done already: 2 of 4 shards" in capsys.readouterr().out


def test_parts_are_closed_by_finalize(archives, tmp_path, capsys):
    foundir(str(archives), str(tmp_path), **SMALL, part="1/2")
    assert "mimdit shards finalize" in capsys.readouterr().out
    with pytest.raises(ValueError, match="2 of the 4 shards"):
        finalize(str(tmp_path))
    foundir(str(archives), str(tmp_path), **SMALL, part="2/2")
    finalize(str(tmp_path))
    assert "rejected pairs: 0" in capsys.readouterr().out
    assert ShardIndex.load(tmp_path).samples == 36


def test_groups_and_limit_choose(archives, tmp_path):
    foundir(str(archives), str(tmp_path), **SMALL, groups=["08Haze"], limit=0.5)
    index = ShardIndex.load(tmp_path)
    assert list(index.groups) == ["08Haze"] and index.samples == 9


def test_overwriting_in_parts_is_refused(archives, tmp_path):
    with pytest.raises(ValueError, match="overwrite=true with part=1/2"):
        foundir(str(archives), str(tmp_path), **SMALL, part="1/2", overwrite=True)


def test_rejects_are_counted_by_group(made, tmp_path, capsys):
    spoilt = {group: dict(stems) for group, stems in made.items()}
    spoilt["01Blur"]["0000001"] = spoilt["01Blur"]["0000001"]._replace(lq=b"")
    spoilt["08Haze"]["0000019"] = spoilt["08Haze"]["0000019"]._replace(gt=None)
    foundir(str(write_group_folders(tmp_path / "source", spoilt)), str(tmp_path / "data"), **SMALL)
    said = capsys.readouterr().out
    assert "rejected so far: 1 (08Haze 1)" in said
    assert f"rejected pairs: 2 (01Blur 1, 08Haze 1), see {tmp_path / 'data' / 'rejected.jsonl'}" in said


def test_two_folders_take_the_group_of_the_folder_they_lie_in(made, folders, tmp_path):
    haze = folders / "08Haze"
    pairs(str(tmp_path), lq=str(haze / "LQ"), gt=str(haze / "GT"), **SMALL)
    assert {group: len(shards) for group, shards in ShardIndex.load(tmp_path).groups.items()} == {"08Haze": 2}


def test_two_folders_apart_need_a_group(folders, tmp_path):
    apart = {"lq": str(folders / "08Haze" / "LQ"), "gt": str(folders / "01Blur" / "GT")}
    with pytest.raises(ValueError, match="Give --group"):
        pairs(str(tmp_path), **apart, **SMALL)
    with pytest.raises(ValueError, match="unknown part 'GoPro'"):
        pairs(str(tmp_path), lq=str(folders / "08Haze" / "LQ"), gt=str(folders / "08Haze" / "GT"), group="GoPro", **SMALL)


def test_verify_tells_what_is_wrong_and_fails(archives, tmp_path, capsys):
    foundir(str(archives), str(tmp_path), **SMALL)
    verify(str(tmp_path), decode=True, workers=1)
    assert "4 shards with 36 samples are sound" in capsys.readouterr().out
    (tmp_path / "08Haze-000001.tar").unlink()
    with pytest.raises(ValueError, match="1 of the 4 shards"):
        verify(str(tmp_path), workers=1)
    assert "08Haze-000001.tar: the tar is missing" in capsys.readouterr().out


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused_before_anything_is_written(archives, tmp_path, workers):
    with pytest.raises(ValueError, match="workers"):
        foundir(str(archives), str(tmp_path / "data"), shard_size=1, workers=workers)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("flag", [["--dry-run"], ["--dry_run=true"], ["--dry-run", "true"]])
@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_flag_needs_no_value(archives, tmp_path, capsys, flag, place):
    args = [str(archives), str(tmp_path / "data"), "--workers=1"]
    cli.main(["shards", "foundir", *args[:place], *flag, *args[place:]])
    assert "an estimate" in capsys.readouterr().out and not (tmp_path / "data").exists()


def test_a_flag_can_be_denied(archives, tmp_path):
    cli.main(["shards", "foundir", str(archives), str(tmp_path), "--dry-run", "false", "--workers=1", "--groups=[01Blur]"])
    assert list(ShardIndex.load(tmp_path).groups) == ["01Blur"]


def test_a_user_s_mistake_is_one_paragraph(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["shards", "foundir", str(tmp_path / "nowhere"), str(tmp_path / "data")])
    said = capsys.readouterr().err
    assert "nowhere is neither a folder nor a .txt list" in said and "Traceback" not in said


@pytest.mark.parametrize("verb", [foundir, pairs])
def test_a_verb_has_and_documents_the_options_of_every_conversion(verb):
    parameters = inspect.signature(verb).parameters
    assert "options" not in parameters and parameters["shard_size"].default == 256 and parameters["part"].annotation == str | None
    documented = {line.partition(":")[0].strip() for line in inspect.getdoc(verb).splitlines() if line.startswith("    ")}
    assert parameters.keys() <= documented
