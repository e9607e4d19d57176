"""Opening shards: folders, globs and joins; in place, by a command, from a server, through a bounded cache."""

import http.server
import os
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest

from datamodules.shards import ShardError, ShardStore, open_index, shard_place, sidecar_of
from tests.datamodules.made_shards import SIZES, make_folder


@pytest.fixture
def index(tmp_path):
    return make_folder(tmp_path / "data")


def read(store: ShardStore, place: str, size: int) -> bytes:
    with store.open(place, size) as file:
        file.seek(512)
        return file.read(100)


def test_local_shards_are_read_in_place(index):
    for shard in index.shards:
        assert read(ShardStore(), shard_place(index, shard), shard.bytes) == index.path(shard).read_bytes()[512:612]


@pytest.mark.parametrize("template", ["pipe:cat {folder}/{{}}", "file://{folder}"])
def test_what_cannot_seek_is_copied_once(index, tmp_path, template):
    store = ShardStore(cache=str(tmp_path / "cache"), allow_pipes=True)
    remote = open_index(template.format(folder=index.folder), store)
    assert remote.shards == index.shards
    for _ in range(2):
        for shard in remote.shards:
            assert read(store, shard_place(remote, shard), shard.bytes) == index.path(shard).read_bytes()[512:612]
        shutil.rmtree(index.folder / "gone", ignore_errors=True)
        copies = {path.name: path.stat().st_ino for path in (tmp_path / "cache").iterdir()}
        assert len(copies) == len(index.shards)
    assert copies == {path.name: path.stat().st_ino for path in (tmp_path / "cache").iterdir()}


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset opens http through curl")
def test_shards_on_a_web_server(index, tmp_path):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(index.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = ShardStore(cache=str(tmp_path / "cache"), attempts=1)
        url = f"http://127.0.0.1:{server.server_port}"
        remote = open_index(url, store)
        shard = remote.shards[0]
        assert read(store, shard_place(remote, shard), shard.bytes) == index.path(shard).read_bytes()[512:612]
        with pytest.raises(ShardError, match="could not be copied in 1 attempts"):
            store.open(f"{url}/nowhere.tar", 10)
        server.shutdown()


def test_remote_shards_without_a_cache_name_the_remedy(index):
    with pytest.raises(ShardError, match="Set data.cache"):
        ShardStore().open("https://host/01Blur-000000.tar", 10)


def test_the_copies_unused_for_longest_make_room(index, tmp_path):
    sizes = [shard.bytes for shard in index.shards]
    store = ShardStore(cache=str(tmp_path / "cache"), cache_gib=sum(sizes[:3]) / 2**30)
    names = []
    for number, shard in enumerate(index.shards[:3]):
        store.open(f"file://{index.path(shard)}", shard.bytes).close()
        names = sorted(path.name for path in (tmp_path / "cache").iterdir())
        for path in (tmp_path / "cache").iterdir():
            if shard.name in path.name:
                os.utime(path, (number, number))
    assert len(names) == 3
    kept_open = store.open(f"file://{index.path(index.shards[1])}", sizes[1])  # used last: now the first copy is the oldest
    os.utime(next(path for path in (tmp_path / "cache").iterdir() if index.shards[1].name in path.name), (9, 9))
    store.open(f"file://{index.path(index.shards[3])}", sizes[3]).close()
    left = {path.name.split("-", 1)[1] for path in (tmp_path / "cache").iterdir()}
    assert index.shards[3].name in left and index.shards[0].name not in left
    assert kept_open.read() == index.path(index.shards[1]).read_bytes()


def test_a_copy_of_another_size_is_fetched_again_and_a_wrong_source_refused(index, tmp_path):
    shard = index.shards[0]
    store = ShardStore(cache=str(tmp_path / "cache"), attempts=2)
    store.open(f"file://{index.path(shard)}", shard.bytes).close()
    (copy,) = (tmp_path / "cache").iterdir()
    copy.write_bytes(b"cut")
    assert read(store, f"file://{index.path(shard)}", shard.bytes) == index.path(shard).read_bytes()[512:612]
    with pytest.raises(ShardError, match="could not be copied in 2 attempts .*the index lists 7"):
        store.open(f"file://{index.path(shard)}", 7)
    assert not list((tmp_path / "cache").glob(".*"))


def test_a_copy_that_takes_too_long_is_given_up(tmp_path):
    store = ShardStore(cache=str(tmp_path), timeout=0.3, attempts=1, allow_pipes=True)
    with pytest.raises(ShardError, match="the limit of shard_timeout"):
        store.open("pipe:for i in 1 2 3 4 5 6; do head -c 2000000 /dev/zero; sleep 0.2; done", 12_000_000)


def test_numbers_out_of_range_are_named():
    with pytest.raises(ValueError, match="cache_gib is 0"):
        ShardStore(cache_gib=0)


def test_a_folder_is_its_index(tmp_path):
    index = make_folder(tmp_path / "data")
    assert open_index(str(tmp_path / "data"), ShardStore()).shards == index.shards


def test_a_glob_of_tars_takes_those_shards_alone(tmp_path):
    make_folder(tmp_path / "data")
    index = open_index(str(tmp_path / "data" / "0[01]*.tar"), ShardStore())
    assert {group: [shard.samples for shard in shards] for group, shards in index.groups.items()} == {
        group: SIZES[group] for group in ("00Clean", "01Blur")
    }
    with pytest.raises(ShardError, match=r"matches 02\*\.tar. Its groups: 00Clean, 01Blur, 09Lowlight_Haze"):
        open_index(str(tmp_path / "data" / "02*.tar"), ShardStore())


@pytest.mark.parametrize(
    ("places", "names"),
    [
        ("data/01Blur-000001.tar", ["01Blur-000001.tar"]),
        ("data/01Blur-{000000..000001}.tar", ["01Blur-000000.tar", "01Blur-000001.tar"]),
        ("data/{00Clean,01Blur}-000000.tar", ["00Clean-000000.tar", "01Blur-000000.tar"]),
        (["data/01Blur-000002.tar", "data/0[01]*-000000.tar"], ["00Clean-000000.tar", "01Blur-000000.tar", "01Blur-000002.tar"]),
        (["data", "data/01Blur-000000.tar"], [f"{group}-{n:06d}.tar" for group, counts in SIZES.items() for n in range(len(counts))]),
        ("{data,more}", [f"{group}-{n:06d}.tar" for group, counts in [*SIZES.items(), ("05Noise", [1])] for n in range(len(counts))]),
        ("*/0?*-000000.tar", ["00Clean-000000.tar", "01Blur-000000.tar", "05Noise-000000.tar", "09Lowlight_Haze-000000.tar"]),
        ("file://{here}/data/01Blur-{000000..000001}.tar", ["01Blur-000000.tar", "01Blur-000001.tar"]),
    ],
)
def test_single_tars_and_braces_take_those_shards_alone(tmp_path, monkeypatch, places, names):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "data")
    make_folder(tmp_path / "more", {"05Noise": [1]})
    places = places.replace("{here}", str(tmp_path)) if isinstance(places, str) else places
    index = open_index(places, ShardStore())
    assert [shard.name for shard in index.shards] == sorted(names)
    assert all(Path(shard_place(index, shard).removeprefix("file://")).is_file() for shard in index.shards)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("data/01Blur-{000001..000004}.tar", r"No shard that .*index\.json lists matches 01Blur-000003\.tar"),
        ("data/stray.tar", r"lists matches stray\.tar. Its groups: 00Clean, 01Blur"),
        ("unfinished/01Blur-000000.tar", r"unfinished/index\.json is missing, so this is not a finished folder"),
        ("nowhere/01Blur-000000.tar", "The shard folder nowhere does not exist"),
        ("data/{one,", r"The braces of data/\{one, cannot be read .* Write \{000000\.\.000009\}"),
    ],
)
def test_tars_and_braces_that_match_nothing_are_named(tmp_path, monkeypatch, place, words):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "data")
    (tmp_path / "data" / "stray.tar").touch()
    make_folder(tmp_path / "unfinished")
    (tmp_path / "unfinished" / "index.json").unlink()
    with pytest.raises(ShardError, match=words):
        open_index(place, ShardStore())


def test_braces_in_a_command_are_the_shells(index, tmp_path):
    remote = open_index(f"pipe:for name in {{}}; do cat {index.folder}/$name; done", ShardStore(cache=str(tmp_path), allow_pipes=True))
    assert remote.shards == index.shards


@pytest.mark.parametrize("listed", [True, False])
def test_several_folders_are_joined_and_each_shard_is_found_at_home(tmp_path, listed):
    first = make_folder(tmp_path / "part-1", {"01Blur": [2, 3]})
    second = make_folder(tmp_path / "part-2", {"05Noise": [4]})
    places = [str(tmp_path / "part-1"), str(tmp_path / "part-2")] if listed else str(tmp_path / "part-*")
    index = open_index(places, ShardStore())
    assert index.samples == 9 and sorted(index.groups) == ["01Blur", "05Noise"]
    homes = {shard_place(index, shard) for shard in index.shards}
    assert homes == {str(folder.path(shard)) for folder in (first, second) for shard in folder.shards}
    assert [len(sidecar_of(index, shard, ShardStore()).spans) for shard in index.shards] == [2, 3, 4]


def test_shards_of_one_name_in_two_folders_are_refused(tmp_path):
    make_folder(tmp_path / "a")
    make_folder(tmp_path / "b")
    with pytest.raises(ShardError, match="both have a shard 00Clean-000000.tar"):
        open_index([str(tmp_path / "a"), str(tmp_path / "b")], ShardStore())


def test_a_glob_that_matches_nothing_and_an_empty_list_are_named(tmp_path):
    with pytest.raises(ShardError, match="nothing-.* matches no folder of shards"):
        open_index(str(tmp_path / "nothing-*"), ShardStore())
    with pytest.raises(ShardError, match="No folder of shards is named"):
        open_index([], ShardStore())


def test_a_sidecar_of_another_tar_is_noticed(tmp_path):
    index = make_folder(tmp_path / "data")
    (tmp_path / "data" / "01Blur-000002.json").write_bytes((tmp_path / "data" / "01Blur-000001.json").read_bytes())
    with pytest.raises(ShardError, match="lists 4 samples, the index 6"):
        sidecar_of(index, index.groups["01Blur"][2], ShardStore())
