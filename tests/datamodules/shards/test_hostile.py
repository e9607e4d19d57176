"""Shards from strangers: nothing of theirs runs, nothing leads out of a folder, nothing but plain files is taken."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest
import torch
from webdataset.tariterators import group_by_keys, tar_file_expander

from datamodules import RestorationDataModule
from datamodules.conversion.verify import ShardCheck, check_shard
from datamodules.shards import INDEX_NAME, ShardError, ShardStore, open_index, parse_sample, read_shard, sidecar_path
from tests.datamodules.made_shards import made_sample, make_folder


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def tar_bytes(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """A tar without the two empty blocks at its end, as a span is."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for member in members:
            if isinstance(member, tuple):
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
            else:
                tar.addfile(member)
        end = tar.offset
    return file.getvalue()[:end]


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def parts(key: str = "05Noise/1") -> list[tuple[str, bytes]]:
    sample = made_sample("05Noise/1", "05Noise")
    return [(f"{key}.lq.png", sample["lq.png"]), (f"{key}.gt.png", sample["gt.png"]), (f"{key}.json", json.dumps(sample["json"]).encode())]


def test_samples_are_those_that_webdataset_groups(tmp_path):
    index = make_folder(tmp_path / "data")
    for shard in index.shards:
        ours = list(read_shard(index.path(shard), samples=shard.samples))
        with open(index.path(shard), "rb") as stream:
            theirs = list(group_by_keys(tar_file_expander([{"url": "x", "stream": stream}])))
        assert [(s.key, s.lq, s.gt, s.json) for s in ours] == [(s["__key__"], s["lq.png"], s["gt.png"], s["json"]) for s in theirs]


@pytest.mark.parametrize("suffix", ["pyd", "pickle", "pkl", "pth", "npy", "lq.pyd"])
def test_what_only_unpickling_could_read_is_not_run(tmp_path, suffix):
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    if suffix == "pth":
        file = io.BytesIO()
        torch.save(Bomb(tmp_path / "ran"), file)
        bomb = file.getvalue()
    made = make_folder(tmp_path / "data", {"05Noise": [2]}, edit=lambda sample: {**sample, suffix: bomb})
    data = RestorationDataModule(str(made.folder), test=str(made.folder), batch_size=2, crop=16, num_workers=0)
    data.setup("fit")
    next(iter(data.train_dataloader()))
    assert len(list(data.test_dataloader())) == 2
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "named pipe"),
    ],
)
def test_links_and_devices_are_refused(kind, told):
    with pytest.raises(ShardError, match=f"is a {told}; shards hold only plain files"):
        parse_sample(tar_bytes(*parts()[1:], special("05Noise/1.lq.png", kind, "/etc/passwd")), "a.tar")


def test_a_sparse_file_that_would_unfold_to_a_terabyte_is_refused():
    header = special("05Noise/1.lq.png", tarfile.REGTYPE)
    header.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**40)}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(header)
    with pytest.raises(ShardError, match="only plain files"):
        parse_sample(file.getvalue(), "a.tar")


@pytest.mark.parametrize("key", ["../../05Noise/1", "/05Noise/1", "05Noise/../../1", "05Noise\\..\\1"])
def test_names_that_lead_out_are_refused(key):
    with pytest.raises(ShardError, match="leads out of its folder"):
        parse_sample(tar_bytes(*parts(key)), "a.tar")


def test_a_compressed_tar_is_not_unpacked(tmp_path):
    with tarfile.open(tmp_path / "bomb.tar", "w:gz") as tar:
        info = tarfile.TarInfo("05Noise/1.lq.png")
        info.size = 1 << 20
        tar.addfile(info, io.BytesIO(bytes(1 << 20)))
    with pytest.raises(ShardError, match="damaged"):
        parse_sample((tmp_path / "bomb.tar").read_bytes(), "bomb.tar")


def test_a_hostile_shard_is_reported_by_verify_and_skipped_by_training(tmp_path):
    """One of two samples becomes a link, in place, so that spans and sizes stay true."""
    index = make_folder(tmp_path / "data", {"05Noise": [2]})
    (shard,) = index.shards
    tar = index.path(shard)
    content = bytearray(tar.read_bytes())
    header = bytearray(content[:512])
    header[156:157], header[157:168] = tarfile.SYMTYPE, b"/etc/passwd"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[:512] = header
    tar.write_bytes(content)
    assert any("symbolic link" in problem for problem in check_shard(ShardCheck(index.folder, shard, True)))
    data = RestorationDataModule(str(index.folder), batch_size=1, crop=16, num_workers=0, max_lost_shards=1)
    data.setup("fit")
    loader = data.train_dataloader()
    keys = {key for _, batch in zip(range(4), loader) for key in batch["key"]}
    assert keys == {"05Noise/0001"} and "symbolic link" in next(iter(loader.bad.lost_shards.values()))


def spoil_index(folder: Path, **fields: object) -> None:
    path = folder / INDEX_NAME
    content = json.loads(path.read_text())
    content["shards"][0] |= fields
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name", ["../x.tar", "/etc/x.tar", "a/b.tar", "pipe:touch ran #.tar", "a;touch ran;.tar", "$(touch ran).tar", "..tar", "x", 7]
)
def test_names_of_an_index_are_plain(tmp_path, name):
    make_folder(tmp_path / "data", {"05Noise": [1]})
    spoil_index(tmp_path / "data", name=name)
    with pytest.raises(ShardError, match="could lead out of its folder or run a command"):
        open_index(str(tmp_path / "data"), ShardStore(allow_pipes=True, cache=str(tmp_path / "cache")))


def test_a_group_that_is_a_path_is_refused(tmp_path):
    make_folder(tmp_path / "data", {"05Noise": [1]})
    spoil_index(tmp_path / "data", group="../05Noise")
    with pytest.raises(ShardError, match="'../05Noise' as a shard or group"):
        open_index(str(tmp_path / "data"), ShardStore())


@pytest.mark.parametrize("span", [["05Noise/0000", -512, 1024], ["05Noise/0000", 0, -1], ["05Noise/0000", 0, 1 << 50]])
def test_spans_lie_in_their_tar(tmp_path, span):
    index = make_folder(tmp_path / "data", {"05Noise": [1]})
    sidecar = sidecar_path(index.path(index.shards[0]))
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"spans": [span]}))
    with pytest.raises(ShardError, match="beyond its tar"):
        RestorationDataModule(test=str(index.folder)).setup("test")


@pytest.mark.parametrize("prefix", ["pipe:", "PIPE:", " pipe:"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_command_runs_only_where_the_config_allows_it(tmp_path, prefix, listed):
    make_folder(tmp_path / "data", {"05Noise": [1]})
    place = f"{prefix}touch {tmp_path / 'ran'}; cat {tmp_path / 'data'}/{{}}"
    data = RestorationDataModule([place] if listed else place, cache=str(tmp_path / "cache"), crop=16, batch_size=1, num_workers=0)
    with pytest.raises(ShardError, match="set data.allow_pipes: true"):
        data.setup("fit")
    assert not (tmp_path / "ran").exists()
    if prefix == "pipe:":
        places = [place] if listed else place
        data = RestorationDataModule(places, cache=str(tmp_path / "cache"), crop=16, batch_size=1, num_workers=0, allow_pipes=True)
        data.setup("fit")
        assert next(iter(data.train_dataloader()))["key"] == ["05Noise/0000"]
        assert (tmp_path / "ran").exists()


def test_a_local_file_is_never_taken_for_a_command(tmp_path, monkeypatch):
    """Path(".") / name is the bare name, which webdataset would run."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ShardError, match="set data.allow_pipes"):
        ShardStore().read_small("pipe:touch ran")
    with pytest.raises(ShardError, match="cannot be read"):
        ShardStore().read_small("-")
    assert not (tmp_path / "ran").exists()
