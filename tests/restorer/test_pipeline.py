"""The diffusers pipeline around a restorer."""

import json
import sys

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import DiffusionPipeline, SD3Transformer2DModel
from PIL import Image
from safetensors.torch import load_file

import mimdit
from mimdit.backbone.lora import LoRA
from mimdit.restorer.pixels import restore_pixels
from mimdit.restorer.restorer import Restorer
from tests.tiny_models import randomize, tiny_restorer


def pipeline(**options):
    conditioner = {"estimate": True, "tone_powers": [0, 1]}
    restorer = tiny_restorer(conditioner=conditioner, backbone=options, flow={"start": "estimate", "sigma_start": 0.3}).eval()
    randomize(restorer.conditioner, 1, scale=0.1)
    restorer = Restorer(restorer.backbone, restorer.conditioner, restorer.balance, restorer.flow, overlap=16).eval()
    made = mimdit.MiMDiTPipeline(restorer)
    made.set_progress_bar_config(disable=True)
    return made


def picture(mode, height=20, width=28):
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)


def test_saved_and_read_it_gives_the_same_image_to_the_bit(tmp_path):
    pipe = pipeline()
    pipe.save_pretrained(tmp_path)
    again = mimdit.MiMDiTPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    one, other = pipe(picture("RGB"), seed=4).images[0], again(picture("RGB"), seed=4).images[0]
    assert isinstance(again, DiffusionPipeline) and np.array_equal(one, other) and not np.array_equal(one, picture("RGB"))


def test_the_embedded_default_comes_back_to_the_bit(tmp_path):
    pipe = mimdit.MiMDiTPipeline.from_pretrained()
    pipe.save_pretrained(tmp_path)
    images = torch.rand(1, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    again = mimdit.MiMDiTPipeline.from_pretrained(tmp_path).restorer
    assert torch.equal(pipe.restorer.restore(images), again.restore(images))


def test_diffusers_reads_the_transformer_and_the_index_of_the_folder(tmp_path):
    pipe = pipeline()
    pipe.save_pretrained(tmp_path)
    transformer = SD3Transformer2DModel.from_pretrained(tmp_path, subfolder="backbone")
    expected = pipe.restorer.backbone.transformer.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in transformer.state_dict().items())
    assert json.loads((tmp_path / "model_index.json").read_text())["restorer"] == ["mimdit.restorer.pipeline", "Restorer"]


def test_diffusers_own_loader_gives_the_same_image_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    pipe = pipeline()
    pipe.save_pretrained(tmp_path / "saved")
    again = DiffusionPipeline.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    again.set_progress_bar_config(disable=True)
    assert type(again) is mimdit.MiMDiTPipeline
    assert np.array_equal(pipe(picture("RGB"), seed=4).images[0], again(picture("RGB"), seed=4).images[0])
    again.save_pretrained(tmp_path / "again")
    weights = [load_file(tmp_path / name / "conditioner.safetensors") for name in ("saved", "again")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    half = DiffusionPipeline.from_pretrained(tmp_path / "saved", trust_remote_code=True, dtype=torch.bfloat16)
    assert half.restorer.backbone.transformer.dtype == torch.bfloat16 and half(picture("RGB")).images[0].size == picture("RGB").size


def test_offloading_hooks_bring_the_weights_when_it_is_called():
    seen = []

    class Hook(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            seen.append(module)
            return args, kwargs

    pipe = pipeline()
    add_hook_to_module(pipe.restorer, Hook())
    pipe(picture("L"), 0)
    assert seen == [pipe.restorer] and pipe.model_cpu_offload_seq == "restorer"
    with pytest.raises(ValueError, match="use enable_model_cpu_offload"):
        pipe.enable_sequential_cpu_offload()


def test_it_gives_what_the_shared_function_gives():
    pipe, image = pipeline(), picture("RGB")
    result = pipe(image, 3, seed=1, tile=16).images[0]
    assert np.array_equal(result, restore_pixels(pipe.restorer, np.asarray(image), steps=3, seed=1, tile=16))
    (arrays,) = pipe([np.asarray(image)], 3, seed=1, tile=16, output_type="np", return_dict=False)
    assert np.array_equal(arrays[0], result)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_modes_and_transparency_come_back(mode):
    image = picture(mode)
    (result,) = pipeline()(image).images
    assert result.mode == mode and result.size == image.size
    if mode.endswith("A"):
        assert np.array_equal(result.getchannel("A"), image.getchannel("A"))


def test_images_of_several_sizes_and_a_palette():
    images = [picture("RGB"), picture("L", 9, 33).convert("P")]
    restored = pipeline()(images).images
    assert [image.size for image in restored] == [image.size for image in images] and restored[1].mode == "RGB"


def test_it_moves_and_shows_its_progress(capsys):
    pipe = pipeline()
    assert pipe.to("cpu") is pipe and pipe.device.type == "cpu" and pipe.components["restorer"] is pipe.restorer
    assert pipe.to("meta").restorer.conditioner.embed.weight.is_meta
    pipe = pipeline()
    pipe.set_progress_bar_config(disable=False)
    pipe([picture("L")] * 2, 0)
    assert "2/2" in capsys.readouterr().err


def test_errors_name_the_mistake():
    pipe = pipeline()
    with pytest.raises(ValueError, match="output_type 'jpeg' is unknown"):
        pipe(picture("L"), output_type="jpeg")
    with pytest.raises(ValueError, match=r"pixels are float64 of shape \[2, 2, 3\]"):
        pipe(np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="holds no adapters"):
        pipeline(lora=LoRA(rank=2)).save_pretrained("nowhere")
