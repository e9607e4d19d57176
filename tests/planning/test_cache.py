"""A plan's key follows from everything it depends on."""

import os

import pytest

from mimdit.backbone.pretrained import EXPERTS
from mimdit.planning import cache


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "model.yaml").write_text("dim: 8\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "index.json").write_text("{}")
    (tmp_path / "pipeline" / "transformer").mkdir(parents=True)
    (tmp_path / "pipeline" / "transformer" / "config.json").write_text("{}")
    (tmp_path / "run.yaml").write_text("config: [parts/model.yaml]\ndata: {train: data}\nbackbone: {pretrained: pipeline}\n")
    return tmp_path


def key(nodes: int = 1) -> str:
    return cache.cache_key({"nodes": nodes}, ["run.yaml"])


def test_the_same_plan_has_the_same_key(config):
    assert key() == key()


@pytest.mark.parametrize("changed", ["run.yaml", "parts/model.yaml", "data/index.json", "pipeline/transformer/config.json"])
def test_a_changed_file_changes_the_key(config, changed):
    before = key()
    with open(config / changed, "a") as file:
        file.write("# changed\n")
    assert key() != before


def test_experts_that_come_to_a_model_in_a_pipeline_change_the_key(config):
    before = key()
    (config / "pipeline" / "transformer" / EXPERTS).write_bytes(b"")
    assert key() != before


def test_other_arguments_and_another_time_of_the_data_change_the_key(config):
    before = key()
    assert key(nodes=2) != before
    os.utime(config / "data" / "index.json", (1, 1))
    assert key() != before


def test_a_plan_is_kept_whole_or_not_at_all(config):
    assert cache.load("absent") is None
    cache.store("kept", {"peak": 1.5})
    assert cache.load("kept") == {"peak": 1.5}
    (cache.cache_folder() / "cut.json").write_text('{"peak": 1')
    assert cache.load("cut") is None
