"""The diffusers pipeline around a restorer."""

import json
import sys

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import DiffusionPipeline, SD3Transformer2DModel
from PIL import Image, ImageOps
from safetensors.torch import load_file

import mimdit
from mimdit.backbone.lora import LoRA
from mimdit.restorer.blending import blend, feathered
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


def unchanged(image):
    """What comes back where nothing changes: an untrained estimate is the input itself."""
    pipe = mimdit.MiMDiTPipeline(tiny_restorer(conditioner={"estimate": True}).eval())
    pipe.set_progress_bar_config(disable=True)
    return pipe(image, 0, start="estimate").images[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_with_an_orientation_tag_stands_upright(orientation):
    image = picture("RGB")
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    result = np.asarray(unchanged(image))
    assert result.shape == expected.shape and np.abs(result - expected).max() <= 1


@pytest.mark.parametrize("order", ["I;16", "I;16B"])
def test_sixteen_bit_gray_of_either_byte_order_stays_sixteen_bit_gray(order):
    pixels = (np.arange(20 * 28).reshape(20, 28) * 117).astype(np.uint16)
    image = Image.frombytes(order, (28, 20), pixels.astype(">u2" if order.endswith("B") else "<u2").tobytes())
    result = unchanged(image)
    assert result.mode == "I;16" and np.abs(np.asarray(result).astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_transparent_key_color_becomes_alpha(mode):
    image = picture("RGB").convert(mode)
    key = image.getpixel((3, 4))
    image.info["transparency"] = key // 255 if mode == "1" else key
    result = unchanged(image)
    values = np.asarray(image.convert("L") if mode == "1" else image).reshape(20, 28, -1)
    assert result.mode == ("RGBA" if mode == "RGB" else "LA")
    assert np.array_equal(np.asarray(result.getchannel("A")) == 0, (values == np.array(key)).all(axis=2))


@pytest.mark.parametrize("mode", ["I", "F", "LAB", "HSV"])
def test_a_mode_without_a_range_is_refused(mode):
    with pytest.raises(ValueError, match=f"Pillow's mode {mode}; convert it to RGB or L"):
        pipeline()(Image.new(mode, (28, 20)))


def test_sixteen_bit_gray_with_a_transparent_value_is_refused():
    image = Image.new("I;16", (28, 20))
    image.info["transparency"] = 5
    with pytest.raises(ValueError, match="use mimdit restore on its file"):
        pipeline()(image)


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


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_amount_and_mask_blend_the_colors_and_leave_alpha(mode):
    pipe, image = pipeline(), picture(mode)
    mask = np.zeros((20, 28), np.uint8)
    mask[5:15, 5:20] = 255
    options = {"seed": 4, "amount": 0.4, "feather": 2}
    whole, part = pipe(image, seed=4).images[0], pipe(image, mask_image=Image.fromarray(mask), **options).images[0]
    original, restored, blended = (np.asarray(one).reshape(20, 28, -1) for one in (image, whole, part))
    colors = slice(None, 3 if mode == "RGBA" else None)
    expected = blend(original[:, :, colors], restored[:, :, colors], 0.4, feathered(mask, mask.shape, 2))
    assert np.array_equal(blended[:, :, colors], expected) and np.array_equal(blended[:, :, 3:], original[:, :, 3:])
    assert np.array_equal(blended[mask == 0], original[mask == 0]) and not np.array_equal(blended, original)
    assert np.array_equal(pipe(image, seed=4, amount=0).images[0], image)


def test_masks_are_arrays_or_pictures_of_any_mode_and_one_for_all_or_one_each():
    pipe, image = pipeline(), picture("RGB")
    mask = np.zeros((20, 28), bool)
    mask[:, 9:] = True
    transparent = np.dstack([np.full((20, 28, 3), 255, np.uint8), mask * np.uint8(255)])
    masks = [mask, mask[:, :, None] * 1.0, Image.fromarray(mask), Image.fromarray(mask * np.uint16(65535)), Image.fromarray(transparent)]
    results = pipe([image] * 5, mask_image=masks).images
    assert all(np.array_equal(result, results[0]) for result in results) and not np.array_equal(results[0], image)
    assert np.array_equal(pipe([image, image], mask_image=mask).images[1], results[0])


def test_masks_of_another_size_or_number_are_refused():
    pipe = pipeline()
    with pytest.raises(ValueError, match="28x21 pixels and the image, upright, 28x20"):
        pipe(picture("RGB"), mask_image=np.ones((21, 28), bool))
    with pytest.raises(ValueError, match="2 masks for 1 images"):
        pipe(picture("RGB"), mask_image=[None, None])
