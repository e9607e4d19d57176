"""Inference in pieces against inference in one."""

import pytest
import torch
from diffusers import AutoencoderKL

from mimdit.backbone import VAECodec
from mimdit.restorer.restorer import Restorer
from tests.tiny_models import ARCHITECTURE, randomize, tiny_restorer


def restorer(**flow):
    options = {"num_layers": 2, "num_blocks": 1, "estimate": True, "tone_powers": [0, 1], "tone_grid": 8}
    made = tiny_restorer(conditioner=options, flow={"steps": 2} | flow, tile=32, overlap=8)
    randomize(made.conditioner, 1, scale=0.1)
    return made.eval()


def images(height=150, width=90):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tile", [8, 40, 64, 100])
@pytest.mark.parametrize("flow", [{}, {"start": "estimate", "sigma_start": 0.3, "sampler": "heun"}, {"start": "estimate", "steps": 0}])
def test_pieces_give_what_one_piece_gives(tile, flow):
    model = restorer(**flow)
    whole, cut = model.restore(images()), model.restore(images(), tile=tile)
    assert whole.shape == cut.shape == (1, 3, 150, 90) and whole.std() > 0.01
    assert (whole - cut).abs().max() < 1e-5  # a level of 16 bits is 1.5e-5


def test_the_embedded_default_is_the_same_in_pieces():
    default, photo = Restorer.from_pretrained(), images(130, 70)
    assert (default.restore(photo) - default.restore(photo, tile=40)).abs().max() < 1e-5


def test_noise_is_that_of_the_whole_canvas():
    model = restorer()
    assert torch.equal(model.restore(images(), seed=3, tile=40), model.restore(images(), seed=3, tile=40))
    assert not torch.allclose(model.restore(images(), seed=3, tile=40), model.restore(images(), seed=4, tile=40), atol=1e-3)


@pytest.mark.parametrize("tile", [None, 40])
def test_a_batch_is_restored_like_its_single_images(tile):
    model, batch = restorer(start="estimate", sigma_start=0.5), torch.cat([images(), images().flip(2)])
    together = model.restore(batch, seed=3, tile=tile)
    alone = torch.cat([model.restore(image[None], seed=3, tile=tile) for image in batch])
    assert (together - alone).abs().max() < 1e-5


def test_canvases_in_files_change_nothing(monkeypatch):
    model = restorer(start="estimate", sigma_start=0.3)
    expected = model.restore(images(), tile=40)
    monkeypatch.setattr("mimdit.core.canvas.IN_A_FILE", 1)
    assert torch.equal(model.restore(images(), tile=40), expected)


def test_what_fits_a_piece_is_not_cut(monkeypatch):
    model = restorer()
    monkeypatch.setattr("mimdit.restorer.inference.condition_in_pieces", lambda *_: pytest.fail("it was cut"))
    assert torch.equal(model.restore(images(30, 30), tile=30), model.restore(images(30, 30)))


def test_a_test_restores_images_above_test_tile_in_pieces(monkeypatch):
    model = restorer()
    whole = model.test_step({"lq": images()}, 0)
    model.test_tile = 40
    cut = model.test_step({"lq": images()}, 0)
    assert list(whole) == list(cut) == ["restored", "estimate", "routing", "identified", "residuals_zeroed", "gates_uniform"]
    for name in ("restored", "estimate", "residuals_zeroed", "gates_uniform"):
        assert (whole[name] - cut[name]).abs().max() < 1e-5, name
    model.test_ablations = False
    monkeypatch.setattr("mimdit.restorer.inference.condition_in_pieces", lambda *_, **__: pytest.fail("it was cut"))
    small = model.test_step({"lq": images(30, 30)}, 0)
    assert list(small) == ["restored", "estimate", "routing", "identified"]
    assert torch.equal(small["restored"], model.restore(images(30, 30)))
    with pytest.raises(ValueError, match="test_tile=0 must be at least 1"):
        tiny_restorer(test_tile=0)


def test_a_tile_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="tile=0 must be at least 1"):
        restorer().restore(images(), tile=0)


def test_an_autoencoder_takes_the_whole_image_also_where_the_rest_goes_in_pieces(tmp_path):
    vae = AutoencoderKL(block_out_channels=(4, 4), latent_channels=4, norm_num_groups=2, sample_size=32,
                        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
    vae.save_pretrained(tmp_path)
    backbone = {"architecture": ARCHITECTURE | {"in_channels": 4, "out_channels": 4}, "codec": VAECodec(str(tmp_path))}
    model = tiny_restorer(backbone=backbone, conditioner={"latent_channels": 4}, tile=32, overlap=8).eval()
    whole, cut = model.restore(images()), model.restore(images(), tile=50)
    assert whole.std() > 0 and (whole - cut).abs().max() < 1e-5
