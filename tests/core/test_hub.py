"""Models on the hub: pushed by one process, read by another, through the hub's own client and a server on this machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from mimdit.core.hub import local_folder
from tests.core.made_hub import MadeHub
from tests.tiny_models import tiny_restorer

PUSH = """
import torch
from mimdit import MiMDiTPipeline
from tests.tiny_models import randomize, tiny_restorer
restorer = tiny_restorer(conditioner={"estimate": True}, flow={"start": "estimate", "sigma_start": 0.3}).eval()
randomize(restorer.conditioner, 1, scale=0.1)
restorer.ema.restart()
torch.save(restorer.restore(torch.full((1, 3, 20, 28), 0.5)), "expected.pt")
print(MiMDiTPipeline(restorer).push_to_hub("someone/whole", token="hf_secret"))
print(restorer.push_to_hub("someone/restorer"))
print(restorer.conditioner.push_to_hub("someone/conditioner"))
"""
READ = """
import torch
from mimdit import MiMDiTPipeline, MoEConditioner, Restorer
images, expected = torch.full((1, 3, 20, 28), 0.5), torch.load("expected.pt")
restorer = Restorer.from_pretrained("someone/whole", revision="main")
assert torch.equal(restorer.restore(images), expected)
assert torch.equal(MiMDiTPipeline.from_pretrained("someone/whole", local_files_only=True).restorer.restore(images), expected)
backbone = restorer.backbone
assert torch.equal(Restorer.from_pretrained("someone/restorer", backbone=backbone, cache_dir="elsewhere").restore(images), expected)
own, other = restorer.conditioner.state_dict(), MoEConditioner.from_pretrained("someone/conditioner").state_dict()
assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
print("equal")
"""

AGAIN = """
from mimdit import MiMDiTPipeline
MiMDiTPipeline.from_pretrained("someone/whole").push_to_hub("someone/whole")
"""
START = """
import torch
from mimdit import Restorer
from mimdit.backbone.lora import LoRA
from tests.tiny_models import randomize, tiny_restorer
made = tiny_restorer(backbone={"lora": LoRA(rank=2)}, anchor="degraded")
randomize(made, 1, scale=0.1)
made.ema.restart()
made.push_to_hub("someone/adapted")
fresh = tiny_restorer(backbone={"lora": LoRA(rank=2)}, anchor="degraded", pretrained="someone/adapted")
expected = {name: weight for name, weight in made.named_parameters() if weight.requires_grad}
assert {"output_layer", "conditioner", "backbone"} == {name.split(".")[0] for name in expected}, expected.keys()
found = dict(fresh.named_parameters())
assert all(torch.equal(weight, found[name]) for name, weight in expected.items())
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
        assert (tmp_path / "elsewhere" / "models--someone--restorer").is_dir()
        card = ModelCard(hub.files["someone/whole"]["README.md"].decode())
        assert card.data.library_name == "mimdit" and 'MiMDiTPipeline.from_pretrained("someone/whole")' in card.text
        hub.files["someone/whole"]["README.md"] = b"edited"
        again = run(AGAIN, hub.url, tmp_path)
        assert again.returncode == 0, again.stderr[-2000:]
        assert hub.files["someone/whole"]["README.md"] == b"edited" and "README.md" not in hub.files["someone/conditioner"]


def test_training_starts_from_the_adapters_and_the_output_layer_in_a_repository_too(tmp_path):
    with MadeHub() as hub:
        started = run(START, hub.url, tmp_path)
        assert started.returncode == 0 and started.stdout.strip().endswith("equal"), started.stderr[-2000:]
        assert {"output_layer.safetensors", "lora/pytorch_lora_weights.safetensors"} <= hub.files["someone/adapted"].keys()


def test_an_unknown_repository_or_revision_and_a_hub_that_cannot_be_reached_are_named(tmp_path):
    with MadeHub() as hub:
        hub.files |= {"someone/here": {"config.json": b"{}"}, "someone/gated": {}}
        hub.gated.add("someone/gated")
        assert "repository of that name is gated: accept its terms" in read("someone/gated", hub.url, tmp_path).stderr
        assert "someone/gone is neither a folder nor a repository on the hub" in read("someone/gone", hub.url, tmp_path).stderr
        assert "someone/here has no revision 'v9'" in read("someone/here", hub.url, tmp_path, ", revision='v9'").stderr
        downloaded = read("someone/here", hub.url, tmp_path)
        assert (Path(downloaded.stdout.strip()) / "config.json").read_bytes() == b"{}", downloaded.stderr[-2000:]
    never = read("someone/never", hub.url, tmp_path, ", local_files_only=True")
    assert re.search(r"name was not downloaded to \S+/hub; connect once, or give a folder$", never.stderr)
    unreached = read("someone/never", hub.url, tmp_path).stderr
    assert re.search(r"name could not be read \([^\n]+\); check the connection and HF_ENDPOINT, or give a folder$", unreached)


@pytest.mark.parametrize("name", ["someone/model", "model", "/not/there", "a/b/c", "../model", "./model", "~/model", "runs/", "a..b/c"])
def test_a_folder_comes_first_and_what_is_no_repositorys_name_is_a_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "someone/model":
        (tmp_path / name).mkdir(parents=True)
    assert local_folder(name) == Path(name)
    with pytest.raises(ValueError, match="revision 'v1' belongs to a repository on the hub, but .* leave revision out"):
        local_folder(name, revision="v1")


def test_a_name_that_no_repository_may_have_is_refused_on_pushing():
    with pytest.raises(ValueError, match="some one/model could not be uploaded: Repo id must use alphanumeric chars, .*; check the name"):
        tiny_restorer().push_to_hub("some one/model", token="hf_secret")


def test_an_unknown_option_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="no option resume_download; leave it out. Those of the hub are cache_dir, force_download, local_"):
        local_folder("someone/model", resume_download=True)
