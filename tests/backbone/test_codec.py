"""Codecs."""

import pytest
import torch
from diffusers import AutoencoderKL

from mimdit.backbone import PixelCodec, VAECodec
from tests.tiny_models import randomise, tiny_backbone

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
    randomise(model, 0, scale=0.1)
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
