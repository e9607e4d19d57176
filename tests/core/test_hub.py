"""Models on the hub: pushed by one process, read by another, through the hub's own client and a server on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mimdit.core.hub import local_folder
from tests.core.made_hub import MadeHub

PUSH = """
import torch
from mimdit import MiMDiTPipeline
from tests.tiny_models import randomize, tiny_restorer
restorer = tiny_restorer(conditioner={"estimate": True}, flow={"start": "estimate", "sigma_start": 0.3}).eval()
randomize(restorer.conditioner, 1, scale=0.1)
restorer.ema.restart()
torch.save(restorer.restore(torch.full((1, 3, 20, 28), 0.5)), "expected.pt")
print(MiMDiTPipeline(restorer).push_to_hub("someone/whole", token="hf_secret"))
print(restorer.conditioner.push_to_hub("someone/conditioner"))
"""
READ = """
import torch
from mimdit import MiMDiTPipeline, MoEConditioner, Restorer
images, expected = torch.full((1, 3, 20, 28), 0.5), torch.load("expected.pt")
restorer = Restorer.from_pretrained("someone/whole", revision="main")
assert torch.equal(restorer.restore(images), expected)
assert torch.equal(MiMDiTPipeline.from_pretrained("someone/whole", local_files_only=True).restorer.restore(images), expected)
own, other = restorer.conditioner.state_dict(), MoEConditioner.from_pretrained("someone/conditioner").state_dict()
assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
print("equal")
"""


def run(code, hub, folder):
    place = {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    place["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=os.environ | place, capture_output=True, text=True, timeout=300)


def read(name, hub, folder, options=""):
    return run(f"from mimdit.core.hub import local_folder\nprint(local_folder({name!r}{options}))", hub, folder)


def test_what_one_process_pushed_another_reads(tmp_path):
    with MadeHub() as hub:
        pushed = run(PUSH, hub.url, tmp_path)
        assert pushed.returncode == 0, pushed.stderr[-2000:]
        assert f"{hub.url}/someone/whole/commit/" in pushed.stdout
        assert {"restorer.json", "conditioner.safetensors", "model_index.json"} <= hub.files["someone/whole"].keys()
        assert any(token == "Bearer hf_secret" for _, _, token in hub.requests)
        found = run(READ, hub.url, tmp_path)
        assert found.returncode == 0 and found.stdout.strip().endswith("equal"), found.stderr[-2000:]


def test_an_unknown_repository_or_revision_and_a_hub_that_cannot_be_reached_are_named(tmp_path):
    with MadeHub() as hub:
        hub.files["someone/here"] = {"config.json": b"{}"}
        assert "someone/gone is neither a folder nor a repository on the hub" in read("someone/gone", hub.url, tmp_path).stderr
        assert "someone/here has no revision 'v9'" in read("someone/here", hub.url, tmp_path, ", revision='v9'").stderr
        downloaded = read("someone/here", hub.url, tmp_path)
        assert (Path(downloaded.stdout.strip()) / "config.json").read_bytes() == b"{}", downloaded.stderr[-2000:]
    never = read("someone/never", hub.url, tmp_path, ", local_files_only=True")
    assert "connect once, or give a folder" in never.stderr
    assert "check the connection and HF_ENDPOINT" in read("someone/never", hub.url, tmp_path).stderr


@pytest.mark.parametrize("name", ["someone/model", "model", "/not/there", "a/b/c"])
def test_a_folder_comes_first_and_what_is_no_repositorys_name_is_a_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "someone/model":
        (tmp_path / name).mkdir(parents=True)
    assert local_folder(name) == Path(name)
