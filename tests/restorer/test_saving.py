"""What a restorer writes and reads: checkpoints of a run, and folders for use."""

import json

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from mimdit.backbone import DiTBackbone, LoRA, VAECodec
from mimdit.conditioner import MoEConditioner
from mimdit.flow import FlowMatching
from mimdit.restorer.restorer import Restorer
from mimdit.routing import RoutingBalance
from mimdit.weights import EMBEDDED_RESTORER
from tests.tiny_models import ARCHITECTURE, randomize, tiny_backbone, tiny_batch, tiny_restorer
from tests.tiny_training import train

PARTS = {"conditioner": {"estimate": True, "tone_powers": [0, 1]}, "estimate_weight": 1.0}


def batches(count):
    return [tiny_batch(seed=seed) for seed in range(count)]


def images():
    return torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))


def checkpoint_of(restorer, folder, count=2):
    train(restorer, batches(count)).save_checkpoint(folder / "run.ckpt")
    return torch.load(folder / "run.ckpt", weights_only=True)


def test_a_checkpoint_leaves_a_frozen_backbone_out_and_holds_the_rest(tmp_path):
    restorer = tiny_restorer(**PARTS)
    saved = set(checkpoint_of(restorer, tmp_path)["state_dict"])
    assert not [name for name in saved if name.startswith("backbone.")]
    assert saved == {name for name in restorer.state_dict() if not name.startswith("backbone.")}
    assert {name.split(".")[0] for name in saved} == {"conditioner", "ema"}


def test_a_trained_backbone_is_saved_and_its_codec_is_not(tmp_path):
    vae = AutoencoderKL(block_out_channels=(4,), latent_channels=4, norm_num_groups=2, scaling_factor=1.0, sample_size=32)
    vae.save_pretrained(tmp_path / "vae")
    shape = ARCHITECTURE | {"in_channels": 4, "out_channels": 4}
    backbone = {"architecture": shape, "codec": VAECodec(str(tmp_path / "vae")), "trainable": True}
    parts = {"backbone": backbone, "conditioner": {"latent_channels": 4}}
    restorer = tiny_restorer(**parts)
    saved = {name for name in checkpoint_of(restorer, tmp_path, 1)["state_dict"] if name.startswith("backbone.")}
    assert saved == {f"backbone.transformer.{name}" for name in restorer.backbone.transformer.state_dict()}
    trainer = train(tiny_restorer(**parts), batches(2), ckpt_path=tmp_path / "run.ckpt", max_epochs=2)
    assert trainer.lightning_module.strict_loading is True


def test_of_an_adapted_backbone_the_adapters_are_saved_alone(tmp_path):
    restorer = tiny_restorer(**PARTS, backbone={"lora": LoRA(rank=2)})
    saved = checkpoint_of(restorer, tmp_path)
    names = {name for name in saved["state_dict"] if name.startswith("backbone.")}
    assert names == {name for name, weight in restorer.named_parameters() if name.startswith("backbone.") and weight.requires_grad}
    assert len(names) == 28 and {f"ema.average.{name.replace('.', '/')}" for name in names} <= set(saved["state_dict"])
    bare = tiny_restorer(**PARTS)
    assert saved["frozen"] == checkpoint_of(bare, tmp_path)["frozen"]  # what they were trained on is the same


def test_a_folder_is_not_read_onto_another_backbone(tmp_path):
    restorer = tiny_restorer(**PARTS)
    restorer.save_pretrained(tmp_path)
    Restorer.from_pretrained(tmp_path, backbone=tiny_backbone())
    with pytest.raises(ValueError, match="trained on another transformer"):
        Restorer.from_pretrained(tmp_path, backbone=tiny_backbone(seed=1))


def test_a_folder_trained_on_latents_is_not_read_onto_pixels(tmp_path):
    vae = AutoencoderKL(block_out_channels=(4,), latent_channels=3, norm_num_groups=2, scaling_factor=1.0, sample_size=32)
    vae.save_pretrained(tmp_path / "vae")
    tiny_restorer(**PARTS, backbone={"codec": VAECodec(str(tmp_path / "vae")), "trainable": True}).save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"latents of .*vae, but this backbone works on pixels"):
        Restorer.from_pretrained(tmp_path / "saved")


def test_adapters_trained_on_another_backbone_are_refused(tmp_path):
    checkpoint_of(tiny_restorer(backbone={"lora": LoRA(rank=2)}), tmp_path)
    with pytest.raises(ValueError, match="the checkpoint was trained on another transformer"):
        train(tiny_restorer(backbone={"lora": LoRA(rank=2), "seed": 1}), batches(1), ckpt_path=tmp_path / "run.ckpt")


@pytest.mark.parametrize("backbone", [{}, {"lora": LoRA(rank=16)}, {"trainable": True}], ids=["frozen", "lora", "trained"])
def test_a_checkpoint_is_hardly_larger_than_what_was_trained(tmp_path, backbone):
    """Weights, average and AdamW's two moments, fp32: four times the trained weights, and at most a tenth more."""
    wide = {"attention_head_dim": 96, "caption_projection_dim": 192}  # 13 MB of frozen weights
    sizes = {"backbone": {"architecture": ARCHITECTURE | wide} | backbone, "conditioner": {"token_dim": 192, "dim": 96}}
    restorer = tiny_restorer(**sizes)
    checkpoint_of(restorer, tmp_path, 1)
    trained = sum(4 * weight.numel() for weight in restorer.parameters() if weight.requires_grad)
    frozen = sum(4 * weight.numel() for weight in restorer.backbone.parameters() if not weight.requires_grad)
    size = (tmp_path / "run.ckpt").stat().st_size
    assert 4 * trained <= size <= 1.1 * 4 * trained
    assert trained > 1e6 and (frozen > 0.1 * 4 * trained or "trainable" in backbone)  # they would not fit into the tenth


@pytest.mark.parametrize("backbone", [{}, {"trainable": True}, {"lora": LoRA(rank=2)}])
def test_a_resumed_run_ends_as_the_one_that_never_stopped(tmp_path, backbone):
    straight, first, second = (tiny_restorer(**PARTS, backbone=backbone) for _ in range(3))
    train(straight, batches(3), max_epochs=2)
    train(first, batches(3), max_epochs=1).save_checkpoint(tmp_path / "run.ckpt")
    for weight in second.parameters():  # all that trains must come from the checkpoint
        if weight.requires_grad:
            torch.nn.init.normal_(weight)
    train(second, batches(3), max_epochs=2, ckpt_path=tmp_path / "run.ckpt")
    expected = straight.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in second.state_dict().items())
    assert not all(torch.equal(tensor, expected[name]) for name, tensor in first.state_dict().items())


def test_a_checkpoint_of_another_conditioner_is_refused(tmp_path):
    checkpoint_of(tiny_restorer(**PARTS), tmp_path)
    with pytest.raises(RuntimeError, match=r"Missing key|Unexpected key"):
        train(tiny_restorer(), batches(1), ckpt_path=tmp_path / "run.ckpt")


def averaged_apart_from_live(**options):
    """A restorer whose average and live weights differ, both far from their initial values."""
    restorer = tiny_restorer(**PARTS, **options)
    for seed, module in ((1, restorer.conditioner), (2, restorer.ema)):
        randomize(module, seed)
    return restorer


def test_a_saved_folder_restores_what_the_average_restores_to_the_bit(tmp_path):
    settings = {"source": "estimate", "start": "estimate", "sigma_start": 0.4, "steps": 3, "sampler": "heun"}
    restorer = averaged_apart_from_live(flow=settings, seed=5, tile=32, overlap=8)
    live = {name: tensor.clone() for name, tensor in restorer.state_dict().items()}
    plain = restorer.restore(images())
    restorer.save_pretrained(tmp_path)
    assert all(torch.equal(tensor, live[name]) for name, tensor in restorer.state_dict().items())  # saving changed nothing

    again = Restorer.from_pretrained(tmp_path, backbone=tiny_restorer().backbone)
    restorer.ema.swap()
    expected = restorer.restore(images())
    assert torch.equal(again.restore(images()), expected) and not torch.allclose(expected, plain, atol=1e-3)
    assert (again.tile, again.overlap, again.seed, vars(again.flow)) == (32, 8, 5, vars(restorer.flow)) and not again.training
    wide = torch.rand(1, 3, 40, 70, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.restore(wide), restorer.restore(wide))


def test_a_trained_backbone_travels_with_the_folder(tmp_path):
    restorer = averaged_apart_from_live(backbone={"trainable": True})
    restorer.save_pretrained(tmp_path)
    restorer.ema.swap()
    own = Restorer.from_pretrained(tmp_path)
    for name, tensor in own.backbone.transformer.state_dict().items():
        assert torch.equal(tensor, restorer.backbone.transformer.state_dict()[name].bfloat16().float())
    assert (own.restore(images()) - restorer.restore(images())).abs().mean() < 0.05


def with_adapters(seed=1):
    """A restorer whose adapters, live and averaged, are far from zero and from each other."""
    restorer = averaged_apart_from_live(backbone={"lora": LoRA(rank=2, alpha=3)})
    torch.manual_seed(seed)
    for weight in (weight for name, weight in restorer.named_parameters() if "lora_" in name):
        torch.nn.init.normal_(weight, std=0.3)
    return restorer


def test_adapters_travel_with_the_folder_to_the_bit(tmp_path):
    restorer = with_adapters()
    restorer.save_pretrained(tmp_path)
    assert not (tmp_path / "backbone").exists()
    live = restorer.restore(images())
    restorer.ema.swap()
    expected = restorer.restore(images())
    assert not torch.allclose(live, expected, atol=1e-3)
    bare = Restorer.from_pretrained(tmp_path, backbone=tiny_restorer().backbone)
    told = Restorer.from_pretrained(tmp_path, backbone=tiny_restorer(backbone={"lora": LoRA(rank=2, alpha=3)}).backbone)
    for again in (bare, told):
        assert torch.equal(again.restore(images()), expected)
    (tmp_path / "lora" / "pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(ValueError, match="pytorch_lora_weights.safetensors does not exist"):
        Restorer.from_pretrained(tmp_path, backbone=tiny_restorer().backbone)


def test_training_can_start_from_saved_adapters_and_must_where_there_are_some(tmp_path):
    restorer = with_adapters()
    restorer.save_pretrained(tmp_path)
    again = tiny_restorer(**PARTS, backbone={"lora": LoRA(rank=2, alpha=3)}, pretrained=str(tmp_path))
    live = dict(again.named_parameters())
    assert all(torch.equal(live[name.replace("/", ".")], tensor) for name, tensor in restorer.ema.average.items())
    assert all(torch.equal(live[name.replace("/", ".")], tensor) for name, tensor in again.ema.average.items())
    with pytest.raises(ValueError, match=rf"{tmp_path} was trained with the adapters in {tmp_path}/lora; give the backbone lora"):
        tiny_restorer(**PARTS, pretrained=str(tmp_path))


def test_training_can_start_from_a_saved_folder(tmp_path):
    restorer = averaged_apart_from_live()
    restorer.save_pretrained(tmp_path)
    again = tiny_restorer(**PARTS, pretrained=str(tmp_path))
    averaged = {name.replace("/", "."): tensor for name, tensor in restorer.ema.average.items()}
    live = dict(again.named_parameters())
    assert all(torch.equal(live[name], tensor) for name, tensor in averaged.items())
    assert all(torch.equal(again.ema.average[name.replace(".", "/")], tensor) for name, tensor in averaged.items())


def test_training_can_start_from_the_restorer_that_comes_with_the_package_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    conditioner = MoEConditioner(**json.loads((EMBEDDED_RESTORER / "config.json").read_text()))
    restorer = Restorer(DiTBackbone(), conditioner, RoutingBalance(), FlowMatching(), pretrained="embedded")
    weights = load_file(EMBEDDED_RESTORER / "conditioner.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in restorer.conditioner.state_dict().items())


def test_a_saved_conditioner_that_does_not_fit_is_named(tmp_path):
    averaged_apart_from_live().save_pretrained(tmp_path)
    wider = PARTS | {"conditioner": PARTS["conditioner"] | {"dim": 12}}
    with pytest.raises(ValueError, match=rf"the conditioner in {tmp_path} does not fit this one: it was made with dim=8; set"):
        tiny_restorer(**wider, pretrained=str(tmp_path))


def test_a_folder_that_is_no_restorer_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path} is not a restorer folder: restorer.json is missing; point to"):
        Restorer.from_pretrained(tmp_path)
    (tmp_path / "restorer.json").write_text('{"flow": {}}')
    with pytest.raises(ValueError, match=rf"{tmp_path} is not a conditioner folder: config.json is missing"):
        Restorer.from_pretrained(tmp_path, backbone=tiny_restorer().backbone)


def test_a_folder_of_another_backbone_is_named(tmp_path):
    averaged_apart_from_live().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"made for another backbone: it has num_layers=2; this backbone needs num_layers=3"):
        Restorer.from_pretrained(tmp_path, backbone=DiTBackbone(None, architecture=ARCHITECTURE | {"num_layers": 3}))
