"""Codecs."""

import pytest
import torch
from diffusers import AutoencoderKL

from mimdit.backbone import PixelCodec, VAECodec
from mimdit.core.rng import keyed_generator
from tests.tiny_checkpoints import tiny_vae
from tests.tiny_models import randomize, tiny_backbone

SCALE, SHIFT = 1.5, 0.1


@pytest.fixture
def vae(tmp_path):
    model = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        scaling_factor=SCALE,
        shift_factor=SHIFT,
        sample_size=32,
    )
    randomize(model, 0, scale=0.1)
    model.save_pretrained(tmp_path / "pipeline" / "vae")
    return model.eval()


def images():
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def test_pixels_there_and_back():
    latents = PixelCodec().encode(images().double())
    assert latents.dtype == torch.float32 and latents.min() >= -1 and latents.max() <= 1
    assert torch.equal(PixelCodec().encode(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(PixelCodec().decode(latents), images())
    assert PixelCodec().decode(torch.tensor(3.0)) == 2  # not clamped


@pytest.mark.parametrize("folder", ["pipeline", "pipeline/vae"])
def test_vae_latents_are_shifted_and_scaled_posterior_means(vae, tmp_path, folder):
    codec = VAECodec(str(tmp_path / folder))
    assert (codec.channels, codec.downscale) == (4, 2)
    with torch.no_grad():
        mean = vae.encode(images() * 2 - 1).latent_dist.mean
        torch.testing.assert_close(codec.encode(images()), (mean - SHIFT) * SCALE)
        torch.testing.assert_close(codec.decode((mean - SHIFT) * SCALE), (vae.decode(mean).sample + 1) / 2)
    assert codec.encode(images()).shape == (2, 4, 8, 12)
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_a_folder_without_an_autoencoder_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path.name} holds no AutoencoderKL: no config.json is in it or in its vae sub-folder"):
        VAECodec(str(tmp_path))
    tiny_backbone().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds no AutoencoderKL: its config.json describes 'SD3Transformer2DModel'; give a folder"):
        VAECodec(str(tmp_path))
    with pytest.raises(ValueError, match=r"missing' is neither a folder nor a hub id"):
        VAECodec(str(tmp_path / "missing"))


def test_a_backbone_refuses_a_codec_of_other_channels(vae, tmp_path):
    with pytest.raises(ValueError, match=r"3 latent channels but VAECodec makes 4; give the codec that belongs"):
        tiny_backbone(codec=VAECodec(str(tmp_path / "pipeline")))


def sd3_codec(tmp_path, **options):
    vae = tiny_vae()
    vae.save_pretrained(tmp_path / "sd3")
    return vae, VAECodec(str(tmp_path / "sd3"), **options)


@torch.no_grad()
def test_sampled_posteriors_are_drawn_image_by_image_and_inference_takes_the_mean(tmp_path):
    vae, codec = sd3_codec(tmp_path, posterior="sample")
    posterior = vae.encode(images() * 2 - 1).latent_dist
    noise = torch.stack([torch.randn(4, 8, 12, generator=keyed_generator("posterior", draw)) for draw in ("3/a", "3/b")])
    expected = (posterior.mean + posterior.std * noise - vae.config.shift_factor) * vae.config.scaling_factor
    torch.testing.assert_close(codec.encode(images(), ["3/a", "3/b"]), expected)
    mean = (posterior.mean - vae.config.shift_factor) * vae.config.scaling_factor
    torch.testing.assert_close(codec.encode(images()), mean)
    assert (expected - mean).abs().mean() > 0.1
    torch.testing.assert_close(VAECodec(str(tmp_path / "sd3")).encode(images(), ["3/a", "3/b"]), mean)

    swapped = codec.encode(images().flip(0), ["3/b", "3/a"])  # another place in the batch
    torch.testing.assert_close(swapped.flip(0), expected)
    torch.testing.assert_close(codec.encode(images()[1:], ["3/b"]), expected[1:])  # on another rank
    assert not torch.allclose(codec.encode(images(), ["4/a", "4/b"]), expected, atol=0.1)


def test_an_unknown_posterior_is_named(tmp_path):
    with pytest.raises(ValueError, match="posterior 'mode' is unknown; choose mean or sample"):
        VAECodec(str(tmp_path), posterior="mode")


@torch.no_grad()
def test_tiling_and_slicing_are_those_of_diffusers(tmp_path):
    vae, plain = sd3_codec(tmp_path)
    large = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    whole = plain.encode(large)
    tiled, sliced = (VAECodec(str(tmp_path / "sd3"), **{option: True}) for option in ("tiling", "slicing"))
    vae.enable_tiling()
    mean = vae.encode(large * 2 - 1).latent_dist.mean
    assert torch.equal(tiled.encode(large), (mean - vae.config.shift_factor) * vae.config.scaling_factor)
    z = tiled.encode(large)
    assert torch.equal(tiled.decode(z), (vae.decode(z / vae.config.scaling_factor + vae.config.shift_factor).sample + 1) / 2)
    assert not torch.allclose(z, whole, atol=1e-3) and z.shape == whole.shape

    seen = []
    sliced.vae.encoder.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    sliced.vae.decoder.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    torch.testing.assert_close(sliced.encode(large), whole)
    torch.testing.assert_close(sliced.decode(whole), plain.decode(whole))
    assert seen == [1, 1, 1, 1]


@torch.no_grad()
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bf16_stays_inside_the_autoencoder(tmp_path, weights):
    vae, codec = sd3_codec(tmp_path, posterior="sample")
    expected, draws = codec.encode(images(), ["a", "b"]), ["a", "b"]
    picture = codec.decode(expected)
    codec.vae.to(weights)
    seen = []
    codec.vae.decoder.conv_out.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=weights is torch.float32):
        latents, decoded = codec.encode(images(), draws), codec.decode(expected)
    assert latents.dtype == decoded.dtype == torch.float32 and seen == [torch.bfloat16]
    assert not torch.equal(latents, latents.bfloat16().float())  # scaled and shifted after the cast
    assert 0 < (latents - expected).abs().mean() < 0.02 * expected.abs().mean()
    assert 0 < (decoded - picture).abs().mean() < 0.02 * picture.abs().mean()
