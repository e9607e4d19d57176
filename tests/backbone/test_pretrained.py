"""Diffusers folders, whole and broken."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file

from mimdit.backbone.pretrained import load_pretrained
from tests.tiny_models import tiny_backbone

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    tiny_backbone().save_pretrained(folder, dtype=torch.float32)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def load(folder):
    return load_pretrained(SD3Transformer2DModel, folder, "transformer")


def test_a_model_and_a_pipeline_folder_give_the_same_weights(folder, tmp_path):
    expected = tiny_backbone().transformer.state_dict()
    shutil.copytree(folder, tmp_path / "pipeline" / "transformer")
    for place in (folder, tmp_path / "pipeline"):
        state = load(place).state_dict()
        assert set(state) == set(expected) and all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_weights_that_lack_a_tensor_are_refused_and_not_filled_at_random(folder):
    tensors = load_file(folder / WEIGHTS)
    del tensors["proj_out.weight"]
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"lack 1 tensors of this SD3Transformer2DModel, proj_out.weight among them; copy or save it anew"):
        load(folder)


@pytest.mark.parametrize("length", [None, 2000])
def test_missing_and_cut_weights_are_named(folder, length):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    if length:
        (folder / WEIGHTS).write_bytes(content[:length])
    with pytest.raises(ValueError, match=rf"{folder} cannot be read as a diffusers SD3Transformer2DModel: .*{WEIGHTS}"):
        load(folder)


def test_a_config_of_something_else_is_named(folder):
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(ValueError, match=rf"{folder} holds no SD3Transformer2DModel: its config.json describes 'UNet2DModel'; give"):
        load(folder)
    (folder / "config.json").write_text("{oh")
    with pytest.raises(ValueError, match=rf"{folder}/config.json is not JSON"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=rf"{folder} holds no SD3Transformer2DModel: no config.json is in it or in its transformer"):
        load(folder)


@pytest.mark.parametrize("name", ["missing", "/missing/folder", "./missing", "a/b/c"])
def test_neither_folder_nor_hub_id_is_an_error_without_a_request(name):
    with pytest.raises(ValueError, match=rf"'{name}' is neither a folder nor a hub id such as"):
        load(name)


def mapped_files(tensor: torch.Tensor) -> set[str]:
    """Files whose mapping into this process holds the tensor's memory."""
    found = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, *_, name = line.split(maxsplit=5)
        first, last = (int(end, 16) for end in place.split("-"))
        if first <= tensor.data_ptr() < last:
            found.add(Path(name).name)
    return found


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists a process's mapped files")
def test_bf16_weights_stored_as_such_are_mapped_and_others_rounded(folder, tmp_path):
    whole = load_pretrained(SD3Transformer2DModel, folder, "transformer")
    rounded = load_pretrained(SD3Transformer2DModel, folder, "transformer", dtype=torch.bfloat16)
    tiny_backbone().save_pretrained(tmp_path / "bf16", dtype=torch.bfloat16)
    mapped = load_pretrained(SD3Transformer2DModel, tmp_path / "bf16", "transformer", dtype=torch.bfloat16)
    for name, weight in whole.named_parameters():
        assert torch.equal(weight.bfloat16(), rounded.get_parameter(name))
    for weight in mapped.parameters():
        assert mapped_files(weight) == {"diffusion_pytorch_model.safetensors"}
    assert not any(mapped_files(weight) == {"diffusion_pytorch_model.safetensors"} for weight in rounded.parameters())
