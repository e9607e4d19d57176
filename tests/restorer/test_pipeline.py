"""The diffusers pipeline around a restorer."""

import json
import sys

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import DiffusionPipeline, SD3Transformer2DModel
from diffusers.callbacks import SDCFGCutoffCallback
from PIL import Image, ImageOps
from safetensors.torch import load_file

import mimdit
from mimdit.backbone.lora import LoRA
from mimdit.restorer.blending import blend
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


def test_a_tensor_is_an_image_too_and_one_comes_back():
    pipe, images = pipeline(), torch.rand(2, 3, 20, 28, generator=torch.Generator().manual_seed(0))
    both = pipe(images, output_type="pt", seed=3).images
    expected = pipe.restorer.restore(images, pipe.restorer.sampling_settings(seed=3))
    assert [tuple(one.shape) for one in both] == [(3, 20, 28)] * 2
    torch.testing.assert_close(torch.stack(both), expected, rtol=0, atol=2 / 65535)
    assert torch.equal(pipe(images[0], output_type="pt", seed=3).images[0], both[0])
    pictures = pipe(images, seed=3).images
    assert all(
        np.abs(np.asarray(one) - 255 * other.permute(1, 2, 0).numpy()).max() <= 0.501 for one, other in zip(pictures, both, strict=True)
    )
    listed = pipe([images[:1], images[1]], output_type="pt", seed=3).images
    assert all(torch.equal(one, other) for one, other in zip(listed, both, strict=True))


NO_IMAGES = ["photo.jpg", None, (picture("RGB"), picture("RGB")), [picture("RGB"), "photo.jpg"], 3]


@pytest.mark.parametrize("image", NO_IMAGES, ids=["str", "None", "tuple", "list", "int"])
def test_what_is_no_image_is_named_with_what_is(image):
    with pytest.raises(ValueError, match=r"image is a (str|NoneType|tuple|int); give a PIL image, .* A file is opened by PIL.Image.open"):
        pipeline()(image)


@pytest.mark.parametrize(
    "tensor, words",
    [
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "torch.uint8 and shape .3, 8, 8. is no image"),
        (torch.zeros(8, 8, 3), "shape .8, 8, 3. is no image"),
        (torch.full((3, 8, 8), 1.5), "values are in 1.5..1.5; scale them to 0..1"),
        (torch.full((3, 8, 8), float("nan")), "values are in nan..nan"),
        (torch.zeros(3, 0, 8), "shape .3, 0, 8. is no image"),
    ],
    ids=["uint8", "channels last", "range", "nan", "empty"],
)
def test_a_tensor_of_another_kind_is_refused(tensor, words):
    with pytest.raises(ValueError, match=words):
        pipeline()(tensor)


def test_an_array_of_sixteen_bit_color_comes_back_as_an_array_or_tensor_only():
    pipe, deep = pipeline(), np.asarray(picture("RGB")).astype(np.uint16) * 257
    (array,), (tensor,) = (pipe(deep, 2, seed=1, output_type=kind).images for kind in ("np", "pt"))
    assert array.dtype == np.uint16 and np.array_equal((tensor.permute(1, 2, 0).numpy() * 65535).round(), array)
    with pytest.raises(ValueError, match="Pillow has no 16-bit color, .* give output_type='np' or 'pt'"):
        pipe(deep, 2)


def test_a_generator_decides_the_noise_and_moves_on():
    pipe, image = pipeline(), picture("RGB")
    generator = torch.Generator().manual_seed(5)
    first, second = (np.asarray(pipe(image, generator=generator).images[0]) for _ in range(2))
    again = np.asarray(pipe(image, generator=torch.Generator().manual_seed(5)).images[0])
    assert np.array_equal(first, again) and not np.array_equal(first, second)
    several = pipe([image, image], generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)], output_type="np").images
    assert np.array_equal(several[0], first) and not np.array_equal(several[1], first)
    mixed = pipe([image, image], generator=[torch.Generator().manual_seed(5), None], output_type="np").images
    assert np.array_equal(mixed[0], first) and np.array_equal(mixed[1], pipe(image, output_type="np").images[0])
    with pytest.raises(ValueError, match="generator has 2 items for 1 images"):
        pipe(image, generator=[generator, generator])


def test_steps_are_another_name_for_num_inference_steps():
    pipe, image = pipeline(), picture("RGB")
    outputs = [np.asarray(pipe(image, **options, seed=1).images[0]) for options in ({"num_inference_steps": 3}, {"steps": 3})]
    assert np.array_equal(*outputs)
    assert np.array_equal(pipe(image, 3, steps=3, seed=1).images[0], outputs[0])
    with pytest.raises(ValueError, match="num_inference_steps=3 and steps=4 are two names"):
        pipe(image, 3, steps=4)


def test_a_callback_sees_every_step_as_in_diffusers_and_may_replace_latents():
    pipe, image, seen = pipeline(), picture("RGB"), []

    def watch(given, step, timestep, kwargs):
        seen.append((given, step, timestep, sorted(kwargs), tuple(kwargs["latents"].shape)))
        return kwargs

    plain = np.asarray(pipe(image, 3, seed=1).images[0])
    watched = np.asarray(pipe(image, 3, seed=1, callback_on_step_end=watch).images[0])
    assert np.array_equal(plain, watched)
    assert [entry[1] for entry in seen] == [0, 1, 2] and all(entry[0] is pipe and entry[3] == ["latents"] for entry in seen)
    assert [entry[2] for entry in seen] == pytest.approx([300, 200, 100]) and seen[0][4][:2] == (1, 3) and pipe.num_timesteps == 3

    black = pipe(image, 3, callback_on_step_end=lambda _, step, __, kwargs: {"latents": torch.full_like(kwargs["latents"], -1)})
    assert not np.asarray(black.images[0]).any()


def test_a_callback_may_stop_the_sampler():
    pipe, image, latents = pipeline(), picture("RGB"), []

    def stop(given, step, timestep, kwargs):
        latents.append(kwargs["latents"].clone())
        given._interrupt = step == 1
        return kwargs

    stopped = pipe(image, 4, seed=1, callback_on_step_end=stop, output_type="pt").images[0]
    assert len(latents) == 2 and pipe.interrupt
    expected = pipe.restorer.backbone.decode(latents[1])[0, :, :20, :28].clamp(0, 1)
    torch.testing.assert_close(stopped, expected, rtol=0, atol=1 / 255)
    assert len(pipe(image, 4, seed=1).images) == 1  # the next call samples to its end
    with pytest.raises(ValueError, match="'prompt_embeds'. are unknown; only latents"):
        pipe(image, callback_on_step_end=stop, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_latents_that_a_callback_keeps_or_returns_are_its_own():
    pipe, image, kept, copies, returned = pipeline(), picture("RGB"), [], [], []

    def keep(_, step, __, kwargs):
        kept.append(kwargs["latents"])
        copies.append(kwargs["latents"].clone())
        returned.append(torch.zeros_like(kwargs["latents"], dtype=torch.float16))
        return {"latents": returned[-1]}

    pipe(image, 3, seed=1, callback_on_step_end=keep)
    assert all(torch.equal(one, other) for one, other in zip(kept, copies, strict=True)) and not torch.equal(kept[0], kept[1])
    assert not any(latents.any() for latents in returned)


def test_an_interruption_keeps_the_latents_of_its_step_and_leaves_out_images_not_begun():
    pipe, images, steps = pipeline(), [picture("RGB")] * 3, []

    def stop(given, step, timestep, kwargs):
        steps.append(step)
        given._interrupt = len(steps) == 4
        return {"latents": torch.full_like(kwargs["latents"], -1)} if given._interrupt else kwargs

    restored = pipe(images, 3, seed=1, callback_on_step_end=stop).images
    assert steps == [0, 1, 2, 0] and len(restored) == 2
    assert np.array_equal(restored[0], pipe(images[0], 3, seed=1).images[0]) and not np.asarray(restored[1]).any()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"callback_on_step_end": lambda *_: None}, "returned a NoneType; return the dictionary that is its last argument"),
        ({"callback_on_step_end": lambda *_: {"latents": torch.zeros(2, 3)}}, r"of shape \[2, 3\]; they must keep theirs, \[1, 3, "),
        ({"callback_on_step_end": SDCFGCutoffCallback(cutoff_step_ratio=0.4)}, "'prompt_embeds'. are unknown; only latents"),
        ({"generator": 7}, r"generator is a int; give torch.Generator\(\)"),
        ({"generator": [torch.Generator()] * 2}, "generator has 2 items for 1 images"),
        ({"generator": torch.Generator(), "seed": 7}, "generator and seed=7 both decide the noise"),
    ],
    ids=["nothing returned", "shape", "unknown tensors", "number", "too many", "seed too"],
)
def test_a_callback_or_generator_that_cannot_be_used_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        pipeline()(picture("RGB"), 2, **options)


def test_amount_and_mask_keep_what_they_should():
    pipe, image, mask = pipeline(), picture("RGB"), np.zeros((20, 28), np.uint8)
    mask[:, 14:] = 255
    original, restored = np.asarray(image), np.asarray(pipe(image, seed=1).images[0])
    assert np.array_equal(pipe(image, seed=1, amount=0).images[0], original)
    assert np.array_equal(pipe(image, seed=1, amount=0.5).images[0], blend(restored.copy(), original, amount=0.5))
    for form in (mask, Image.fromarray(mask), [mask]):
        half = np.asarray(pipe(image, seed=1, mask_image=form, feather=0).images[0])
        assert np.array_equal(half[:, :14], original[:, :14]) and np.array_equal(half[:, 14:], restored[:, 14:])
    with pytest.raises(ValueError, match="the mask has 28x19 pixels and the image 28x20"):
        pipe(image, mask_image=mask[:19])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"variant": "fp16"}, "variant='fp16' does not exist: .* give torch_dtype"),
        ({"use_safetensors": False}, "use_safetensors=False cannot be met"),
        ({"device_map": "sequential"}, "device_map='sequential' cannot be used here; give balanced"),
        ({"device_map": {"": "cpu"}}, "device_map={'': 'cpu'} cannot be used here; give balanced"),
        ({"device_map": "cuda:99"}, "device_map='cuda:99' cannot be used here"),
        ({"torch_dtype": "bfloat16"}, "torch_dtype='bfloat16' is no torch.dtype; give torch.float32"),
        ({"torch_dtype": torch.float32, "dtype": torch.float16}, "are two names for one option"),
        ({"low_cpu_mem_usage": True}, "has no option low_cpu_mem_usage; leave it out"),
        ({"revision": "v1"}, "revision 'v1' belongs to a repository on the hub"),
    ],
    ids=["variant", "pickles", "device map", "map by module", "no such device", "name of a precision", "both", "unknown", "revision"],
)
def test_options_of_diffusers_that_cannot_be_met_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        mimdit.MiMDiTPipeline.from_pretrained(**options)


def test_options_of_diffusers_that_are_met():
    pipe = mimdit.MiMDiTPipeline.from_pretrained(use_safetensors=True, device_map="cpu", torch_dtype=torch.bfloat16)
    assert pipe.device == torch.device("cpu") and pipe.restorer.backbone.transformer.dtype == torch.bfloat16
    pipe = mimdit.MiMDiTPipeline.from_pretrained(dtype=torch.bfloat16, device_map="balanced", local_files_only=None, token=False)
    assert pipe.restorer.backbone.transformer.dtype == torch.bfloat16


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


def test_a_mask_may_be_an_array_of_any_type_or_a_picture_of_any_mode():
    pipe, image = pipeline(), picture("RGB")
    mask = np.zeros((20, 28), bool)
    mask[:, 9:] = True
    transparent = np.dstack([np.full((20, 28, 3), 255, np.uint8), mask * np.uint8(255)])
    masks = [mask, mask[:, :, None] * 1.0, Image.fromarray(mask), Image.fromarray(mask * np.uint16(65535)), Image.fromarray(transparent)]
    results = [np.asarray(result) for result in pipe([image] * 5, mask_image=masks, seed=4).images]
    assert all(np.array_equal(result, results[0]) for result in results) and not np.array_equal(results[0], image)
    assert np.array_equal(results[0][:, :9], np.asarray(image)[:, :9])


@pytest.mark.parametrize("mask, words", [(np.full((20, 28), 2.0), "in 2..2; scale"), (np.zeros((20, 28), int), "the mask is int64; give")])
def test_a_mask_of_another_type_or_range_is_refused(mask, words):
    with pytest.raises(ValueError, match=words):
        pipeline()(picture("RGB"), mask_image=mask)
