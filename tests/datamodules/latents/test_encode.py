"""What `mimdit shards latents` stores, against the autoencoder itself on crops cut by hand."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.conversion.verify import read_index, verify
from datamodules.decoding import decode_image
from datamodules.degradations import atoms_of_group
from datamodules.latents.plan import PLAN_NAME
from datamodules.shards import Sidecar
from datamodules.shards.folder import Part
from mimdit.backbone import VAECodec
from mimdit.backbone.identity import weights_sha256
from mimdit.commands.latents import latents
from tests.datamodules.latents.made_latents import CROP, content, make_latents, stored, tensors
from tests.datamodules.made_shards import encode, made_image, make_folder
from tests.tiny_checkpoints import tiny_vae


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """Latents in fp32, and the folder beside which its images and autoencoder are."""
    tmp_path = tmp_path_factory.mktemp("exact")
    return make_latents(tmp_path, dtype="float32", keep_images=True), tmp_path


def cut_by_hand(key: str, fields: dict) -> np.ndarray:
    """lq and gt uint8 ``[2, crop, crop, 3]`` of a made sample, as the json says."""
    image, (top, left) = made_image(key), fields["crop"]
    pair = np.stack([image, 255 - image])[:, top : top + CROP, left : left + CROP]
    pair = np.rot90(pair, fields["turns"], axes=(1, 2))
    return pair[:, :, ::-1] if fields["mirror"] else pair


def as_images(pair: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pair.copy()).permute(0, 3, 1, 2).contiguous().float() / 255


@torch.no_grad()
def expected(pair: np.ndarray) -> torch.Tensor:
    posterior = tiny_vae().encode(as_images(pair) * 2 - 1).latent_dist
    return torch.cat([posterior.mean, posterior.logvar], 1)


def test_fp32_latents_are_the_autoencoders_posterior_of_the_crop_that_the_json_tells(exact):
    samples = stored(exact[0])
    assert len(samples) == 2 * 9
    windows = set()
    for key, sample in samples.items():
        fields = json.loads(sample.json)
        pair = cut_by_hand(key.rpartition("_c")[0], fields)
        torch.testing.assert_close(tensors(sample), expected(pair), rtol=1e-5, atol=1e-6)
        assert (fields["width"], fields["height"]) == (CROP, CROP)
        windows.add((*fields["crop"], fields["turns"], fields["mirror"]))
    assert len(windows) > 12
    assert {turns for _, _, turns, _ in windows} == {0, 1, 2, 3} and {mirror for *_, mirror in windows} == {True, False}


def test_kept_images_are_the_crops(exact):
    for key, sample in stored(exact[0]).items():
        pair = cut_by_hand(key.rpartition("_c")[0], json.loads(sample.json))
        assert all(np.array_equal(np.asarray(Image.open(io.BytesIO(data))), side) for data, side in zip((sample.lq, sample.gt), pair))


@torch.no_grad()
def test_fp32_latents_are_to_the_bit_what_the_codec_makes_of_the_same_batch(exact):
    index, folder = exact
    codec = VAECodec(str(folder / "vae0"))
    for shard in index.shards:
        samples = [sample for key, sample in stored(index).items() if sample.shard.endswith(shard.name)]
        for first in range(0, len(samples), 3):  # the batch size of `make_latents`
            batch = samples[first : first + 3]
            images = torch.cat([as_images(np.stack([decode_image(getattr(each, side), "it") for each in batch])) for side in ("lq", "gt")])
            made = torch.stack([tensors(sample) for sample in batch], dim=1).flatten(0, 1)
            assert torch.equal(codec.moments(images), made)


@pytest.mark.parametrize("dtype, bits", [("float16", 10), ("bfloat16", 7)])
def test_other_types_store_the_same_to_their_rounding(exact, tmp_path, dtype, bits):
    whole = stored(exact[0])
    (tmp_path / "images").symlink_to(exact[1] / "images")
    short = stored(make_latents(tmp_path, dtype=dtype))
    assert short.keys() == whole.keys()
    for key, sample in short.items():
        assert tensors(sample).dtype == getattr(torch, dtype) and sample.lq is None
        difference, size = (tensors(sample).float() - tensors(whole[key])).abs(), tensors(whole[key]).abs()
        assert (difference <= size * 2.0 ** -(bits + 1) + 1e-6).all() and difference.max() > 0


def test_bf16_work_differs_a_little(exact, tmp_path):
    (tmp_path / "images").symlink_to(exact[1] / "images")
    rounded, whole = stored(make_latents(tmp_path, compute="bfloat16", dtype="float32")), stored(exact[0])
    error = torch.stack([(tensors(rounded[key]) - tensors(whole[key])).abs().mean() for key in whole]).mean()
    assert 0 < error < 0.02 * torch.stack([tensors(sample).abs().mean() for sample in whole.values()]).mean()


def test_the_index_tells_what_made_them(exact):
    index, folder = exact
    record = index.options["latents"]
    sha256 = weights_sha256(VAECodec(str(folder / "vae0")))
    assert record == {
        "codec": {"source": str(folder / "vae0"), "revision": None, "sha256": sha256}, "channels": 4, "downscale": 2, "crop": CROP,
        "crops": 2, "flip": True, "seed": 0, "dtype": "float32", "compute": "float32", "batch_size": 3, "images": True,
    }  # fmt: skip
    assert index.options["versions"].keys() == {"mimdit", "torch", "diffusers"}


def test_without_flips_crops_stand_upright(tmp_path):
    fields = [json.loads(sample.json) for sample in stored(make_latents(tmp_path, flip=False)).values()]
    assert {(each["turns"], each["mirror"]) for each in fields} == {(0, False)} and len({tuple(each["crop"]) for each in fields}) > 9


def test_workers_and_repetition_change_no_byte(tmp_path):
    make_latents(tmp_path, "one")
    make_latents(tmp_path, "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_parts_write_the_same_and_the_last_one_closes(tmp_path, capsys):
    whole = make_latents(tmp_path, "whole")
    with pytest.raises(ValueError, match="index.json is missing"):
        make_latents(tmp_path, "parts", part="2/2")
    assert "Part 2/2 is done; 2 of 3 shards of other parts are missing" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "parts").glob("*.tar")} == {shard.name for shard in Part(2, 2).share(whole.shards)}
    make_latents(tmp_path, "parts", part="1/2")
    assert content(tmp_path / "whole") == content(tmp_path / "parts")


def test_what_is_done_is_kept_and_the_rest_written_again(tmp_path):
    make_latents(tmp_path, "whole")
    index = make_latents(tmp_path)
    kept = (tmp_path / "latents" / index.shards[0].name).stat().st_mtime_ns
    for stale in (".08Haze-000000.tar.1-ab.tmp", ".index.json.2-cd.tmp"):
        (tmp_path / "latents" / stale).write_bytes(b"half")
    (tmp_path / "latents" / index.shards[1].name).write_bytes(b"cut short")
    (tmp_path / "latents" / "08Haze-000000.json").unlink()
    make_latents(tmp_path)
    assert (tmp_path / "latents" / index.shards[0].name).stat().st_mtime_ns == kept
    assert content(tmp_path / "whole") == content(tmp_path / "latents")


def test_images_that_cannot_be_cut_are_rejected_by_name(tmp_path, capsys):
    def edit(sample):
        if sample["__key__"] == "01Blur/0001":
            return {**sample, "gt.png": b"no image"}
        if sample["__key__"] == "08Haze/0002":
            small = encode(made_image("small", 12, 30))
            return {**sample, "lq.png": small, "gt.png": small}
        return sample

    make_folder(tmp_path / "images", {"01Blur": [3, 2], "08Haze": [4]}, edit=edit)
    index = make_latents(tmp_path)
    assert index.samples == 2 * 7 and "rejected pairs: 2, see" in capsys.readouterr().out
    rejected = [json.loads(line) for line in (tmp_path / "latents" / "rejected.jsonl").read_text().splitlines()]
    assert [(each["group"], each["name"]) for each in rejected] == [("01Blur", "0001"), ("08Haze", "0002")]
    assert "smaller than the crop of 16" in rejected[1]["reason"]
    assert Sidecar.load(index.path(index.shards[0])).rejects[0][0] == "0001"


def test_groups_are_chosen_and_others_composed(tmp_path):
    compose = {"18Lowlight_Blur_Noise": "01Blur"}
    index = make_latents(tmp_path, groups=["08Haze"], compose=compose, keep_images=True)
    assert {group: [shard.name for shard in shards] for group, shards in index.groups.items()} == {
        "08Haze": ["08Haze-000000.tar"],
        "18Lowlight_Blur_Noise": ["18Lowlight_Blur_Noise-000000.tar", "18Lowlight_Blur_Noise-000001.tar"],
    }
    made = [sample for key, sample in stored(index).items() if key.startswith("18")]
    assert len(made) == 10
    for sample in made:
        fields = json.loads(sample.json)
        assert fields["group"] == "18Lowlight_Blur_Noise" and fields["atoms"] == list(atoms_of_group("18Lowlight_Blur_Noise"))
        pair = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in (sample.lq, sample.gt)])
        half = expected(pair).half()
        torch.testing.assert_close(tensors(sample), half, rtol=2e-3, atol=2e-3)
        assert is_a_crop_of(pair[1], 255 - made_image(fields["composed_from"])) and np.abs(pair[0].astype(int) - pair[1]).mean() > 5


def is_a_crop_of(crop: np.ndarray, image: np.ndarray) -> bool:
    """Whether it is one in any of the 8 orientations."""
    upright = [np.rot90(flipped, turns) for flipped in (crop, crop[:, ::-1]) for turns in range(4)]
    places = [(top, left) for top in range(image.shape[0] - CROP + 1) for left in range(image.shape[1] - CROP + 1)]
    return any(np.array_equal(image[top : top + CROP, left : left + CROP], each) for top, left in places for each in upright)


@pytest.mark.parametrize("images", [False, True])
def test_verify_finds_them_sound_and_a_changed_byte_in_them(tmp_path, images):
    index = make_latents(tmp_path, keep_images=images)
    folder = tmp_path / "latents"
    assert [problems for _, problems in verify(read_index(folder), decode=True)] == [[], [], []]
    path = folder / index.shards[0].name
    data = bytearray(path.read_bytes())
    data[data.index(b'{"gt"') + 500] ^= 1
    path.write_bytes(data)
    found = {entry.name: problems for entry, problems in verify(read_index(folder)) if problems}
    assert any("the latents' checksum differs from their json" in problem for problem in found[path.name])


def test_other_options_images_or_weights_are_not_mixed_in(tmp_path):
    make_latents(tmp_path)
    with pytest.raises(ValueError, match="holds other latents: crops 2 there, 3 now. Give"):
        make_latents(tmp_path, crops=3)
    with pytest.raises(ValueError, match="holds other latents: codec .*sha256"):
        make_latents(tmp_path, seed=1)
    before = content(tmp_path / "latents")
    index = make_latents(tmp_path, crops=1, overwrite=True)
    assert index.samples == 9 and json.loads((tmp_path / "latents" / PLAN_NAME).read_text())["latents"]["crops"] == 1
    assert content(tmp_path / "latents") != before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    make_latents(tmp_path)
    before = content(tmp_path / "images")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="holds shards but no latents.json, so they belong to something else. Give another folder"):
            make_latents(tmp_path, "images", overwrite=overwrite)
    assert content(tmp_path / "images") == before
    with pytest.raises(ValueError, match="holds latents without images, which cannot be encoded"):
        latents(str(tmp_path / "latents"), str(tmp_path / "again"), vae=str(tmp_path / "vae0"), crop=CROP)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop": 15}, "crop is 15 pixels; it must be a multiple of 2, the pixels"),
        ({"crops": 0}, "crops is 0; it must be at least 1"),
        ({"dtype": "int8"}, "dtype is 'int8'; it must be one of float16, bfloat16, float32"),
        ({"compute": "float16"}, "compute is 'float16'; it must be one of float32, bfloat16"),
        ({"workers": -1}, "workers is -1"),
        ({"part": "3/2"}, "part is '3/2'"),
        ({"part": "1/2", "overwrite": True}, "overwrite=true with part=1/2"),
        ({"groups": ["08Fog"]}, "holds no group 08Fog. It holds 01Blur, 08Haze"),
        ({"compose": {"18Fog": "01Blur"}}, "cannot make '18Fog'"),
        ({"device": "tpu9"}, "device 'tpu9' cannot be used"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_latents(tmp_path, **options)
    assert not (tmp_path / "latents").exists()


def test_latents_too_large_for_their_type_are_not_stored(tmp_path):
    vae = tiny_vae()
    with torch.no_grad():
        vae.encoder.conv_out.weight.mul_(1e7)
    vae.save_pretrained(tmp_path / "huge")
    with pytest.raises(ValueError, match=r"latents of 01Blur/0000_c00 are not all finite in float16"):
        make_latents(tmp_path, vae=str(tmp_path / "huge"))
    assert not list((tmp_path / "latents").glob("*.tar"))
