"""Damage that verify must find, and only there."""

import json
import re
import shutil

import pytest

from datamodules.conversion.options import Options
from datamodules.conversion.verify import read_index, verify
from datamodules.shards import ShardError, Sidecar
from tests.datamodules.conversion.made_conversion import converted
from tests.datamodules.made_shards import make_folder


@pytest.fixture(scope="module")
def sound(source, tmp_path_factory):
    return converted(source, tmp_path_factory.mktemp("sound") / "data")


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "data")


def problems(folder, decode=False) -> dict[str, list[str]]:
    return {entry.name: found for entry, found in verify(read_index(folder), decode=decode) if found}


@pytest.mark.parametrize("decode", [False, True])
def test_nothing_is_wrong_with_what_was_just_written(sound, source, tmp_path, decode):
    assert problems(sound, decode) == {}
    assert problems(converted(source, tmp_path / "tiles", Options(shard_size=1, tile=64, limit=4)), decode) == {}
    make_folder(tmp_path / "made")  # without checksums in the json
    assert problems(tmp_path / "made", decode) == {}


@pytest.mark.parametrize("place", [0.001, 0.3, 0.7, 0.999])
def test_a_changed_byte_is_found_in_its_shard(folder, place):
    path = folder / "08Haze-000001.tar"
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    found = problems(folder)
    assert found.keys() == {path.name} and "the tar's checksum differs from the index" in found[path.name]


def test_a_changed_image_is_named_by_its_key_and_side(folder):
    path = folder / "08Haze-000001.tar"
    span = Sidecar.load(path).spans[1]
    data = bytearray(path.read_bytes())
    data[span.offset + span.size - 2000] ^= 1  # the lq image is the last of a sample
    path.write_bytes(data)
    assert f"{span.key}: the lq image's checksum differs from its json" in problems(folder)[path.name]


def test_a_size_that_is_not_the_image_s_is_found_by_decoding(folder):
    path = folder / "08Haze-000001.tar"
    path.write_bytes(re.sub(rb'"width": 1..', b'"width": 999', path.read_bytes(), count=1))
    key = Sidecar.load(path).spans[0].key
    found = [[problem for problem in problems(folder, decode)[path.name] if problem.startswith(key)] for decode in (False, True)]
    assert found[0] == [] and len(found[1]) == 2 and all("in its json 999x" in problem for problem in found[1])


def test_a_swapped_sidecar_is_found(folder):
    first, second = folder / "08Haze-000000.json", folder / "08Haze-000001.json"
    content = first.read_bytes(), second.read_bytes()
    second.write_bytes(content[0])
    first.write_bytes(content[1])
    found = problems(folder)
    assert found.keys() == {"08Haze-000000.tar", "08Haze-000001.tar"}
    assert all("the sidecar describes" in listed[0] for listed in found.values())


def test_two_swapped_tars_are_found(folder):
    first, second = folder / "08Haze-000000.tar", folder / "01Blur-000000.tar"
    content = first.read_bytes(), second.read_bytes()
    second.write_bytes(content[0])
    first.write_bytes(content[1])
    assert problems(folder).keys() == {first.name, second.name}


@pytest.mark.parametrize(
    "remove, message", [("01Blur-000000.tar", "the tar is missing"), ("01Blur-000000.json", r"The sidecar .* is missing")]
)
def test_a_missing_file_is_found(folder, remove, message):
    (folder / remove).unlink()
    found = problems(folder)
    assert found.keys() == {"01Blur-000000.tar"}
    with pytest.raises(ValueError, match=message):
        raise ValueError(found["01Blur-000000.tar"][0])


def test_a_tar_cut_short_is_found(folder):
    path = folder / "01Blur-000000.tar"
    path.write_bytes(path.read_bytes()[:5000])
    assert any("has 5000 bytes" in problem for problem in problems(folder)[path.name])


def test_spans_that_lead_elsewhere_are_found(folder):
    path = folder / "01Blur-000000.json"
    read = json.loads(path.read_text())
    read["spans"][0][0], read["spans"][1][0] = read["spans"][1][0], read["spans"][0][0]
    path.write_text(json.dumps(read))
    assert len(problems(folder)["01Blur-000000.tar"]) == 2
    read["spans"][1][1] += 512
    path.write_text(json.dumps(read))
    assert any("in the sidecar at" in problem for problem in problems(folder)["01Blur-000000.tar"])


def test_a_folder_that_is_not_finished_is_named(folder):
    (folder / "index.json").unlink()
    with pytest.raises(ShardError, match=r"index\.json is missing"):
        read_index(folder)
