"""Every layout of a checkpoint gives the model that was saved, with adapters or without."""

import json
import re

import pytest
import torch
from diffusers import FluxPipeline

from mimdit.backbone import DiTBackbone, LoRA, VAECodec
from mimdit.conditioner import MoEConditioner
from mimdit.flow import FlowMatching
from mimdit.restorer.restorer import Restorer
from mimdit.routing import RoutingBalance
from tests.tiny_checkpoints import FAMILY, LAYOUTS, OTHERS, latents, tiny_transformer, tiny_vae, write_checkpoint

SIGMA = torch.tensor([0.2, 0.9])


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder")
    tiny_vae().save_pretrained(folder)
    return str(folder)


def restorer_of(backbone):
    sizes = {name: getattr(backbone, name) for name in ("latent_channels", "token_dim", "num_layers", "token_patch")}
    conditioner = MoEConditioner(**sizes, dim=8, num_blocks=1, num_experts=3)
    return Restorer(backbone, conditioner, RoutingBalance(), FlowMatching(steps=2), overlap=4)


@torch.no_grad()
def expected_velocity(model):
    told = {"hidden_states": latents(), "timestep": SIGMA * 1000, "encoder_hidden_states": torch.zeros(2, 1, 8)}
    if type(model).__name__ == "SD3Transformer2DModel":
        return model(**told, pooled_projections=torch.zeros(2, 8)).sample
    if type(model).__name__ == "FluxTransformer2DModel":
        packed = {"hidden_states": FluxPipeline._pack_latents(latents(), 2, 4, 16, 16), "timestep": SIGMA, "txt_ids": torch.zeros(1, 3)}
        guidance = torch.full((2,), 3.5) if model.config.guidance_embeds else None
        ids = FluxPipeline._prepare_latent_image_ids(2, 8, 8, "cpu", torch.float32)
        output = model(**told | packed, pooled_projections=torch.zeros(2, 8), img_ids=ids, guidance=guidance).sample
        return FluxPipeline._unpack_latents(output, 32, 32, 2)
    size = {"resolution": torch.full((2, 2), 128.0), "aspect_ratio": torch.ones(2, 1)}
    return model(**told, added_cond_kwargs=size if model.use_additional_conditions else None).sample[:, :4]


@pytest.mark.parametrize("lora", [None, LoRA(rank=3)], ids=["bare", "lora"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("member", FAMILY | OTHERS)
def test_velocity_is_to_the_bit_that_of_the_saved_model_and_of_an_untrained_restorer(member, layout, lora, vae_folder, tmp_path):
    model = tiny_transformer(member)
    told = write_checkpoint(model, tmp_path / "weights", layout)
    shards = len(list((tmp_path / "weights").glob("*-of-*.safetensors")))
    assert (shards > 1) == layout.startswith("sharded")

    codec = VAECodec(told["pretrained"] if layout == "pipeline" else vae_folder)
    backbone = DiTBackbone(**told, codec=codec, lora=lora)
    expected = expected_velocity(model)
    assert expected.abs().mean() > 0.01
    assert all(tensor.dtype == torch.float32 for tensor in backbone.state_dict().values())
    fields = FAMILY.get(member) or OTHERS[member]
    assert {name: backbone.transformer.config[name] for name in fields} == fields
    assert any(".lora_" in name for name in backbone.state_dict()) == (lora is not None)
    with torch.no_grad():
        assert torch.equal(backbone.velocity(latents(), SIGMA), expected)
        restorer = restorer_of(backbone)
        assert torch.equal(restorer.velocity(latents(), SIGMA, restorer.conditioner(latents(1))), expected)


def test_the_members_differences_come_from_the_file(tmp_path):
    model = tiny_transformer("sd3.5-medium")
    backbone = DiTBackbone(**write_checkpoint(model, tmp_path, "transformer"), codec=Channels(4))
    blocks = backbone.transformer.transformer_blocks
    assert [block.attn2 is not None for block in blocks] == [True, True, False]
    assert all(block.attn.norm_q is not None for block in blocks)
    assert (backbone.max_size, backbone.token_patch, backbone.num_layers) == (48, 2, 3)


class Channels(torch.nn.Module):
    """A codec that only says how many channels its latents have."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels


def read(folder, **options):
    return DiTBackbone(str(folder), codec=Channels(4), **options)


@pytest.mark.parametrize(
    ("member", "field", "words"),
    [
        ("sd3.5-medium", {"qk_norm": None}, r"hold \d+ tensors that are not part of this SD3Transformer2DModel, .*norm_.*copy or save"),
        ("sd3-medium", {"qk_norm": "rms_norm"}, r"lack \d+ tensors of this SD3Transformer2DModel, .*norm_.*copy or save it anew"),
        ("sd3.5-medium", {"dual_attention_layers": []}, r"cannot be read as a diffusers SD3Transformer2DModel: .*norm1.* expected shape"),
        ("sd3.5-medium", {"pos_embed_max_size": 12}, r"cannot be read as a diffusers SD3Transformer2DModel: .*pos_embed"),
        ("sd3-medium", {"new_trick": 1}, r"config\.json has new_trick, which SD3Transformer2DModel of the installed diffusers [\d.]+ does"),
    ],
)
def test_a_config_that_is_not_of_these_weights_is_refused(tmp_path, member, field, words):
    write_checkpoint(tiny_transformer(member), tmp_path, "transformer")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | field))
    with pytest.raises(ValueError, match=words):
        read(tmp_path)


def test_a_lost_shard_is_named(tmp_path):
    write_checkpoint(tiny_transformer("sd3-medium"), tmp_path, "sharded")
    lost = sorted(tmp_path.glob("*-of-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ValueError, match=rf"{tmp_path} cannot be read as a diffusers SD3Transformer2DModel: .*{lost.name}"):
        read(tmp_path)


def test_a_variant_that_is_not_there_is_named_with_those_that_are(tmp_path):
    write_checkpoint(tiny_transformer("sd3-medium"), tmp_path / "half", "sharded variant")
    (tmp_path / "half" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"neither diffusion_pytorch_model.safetensors nor .* is in .*; set variant to one .*: fp16$"):
        read(tmp_path / "half")
    write_checkpoint(tiny_transformer("sd3-medium"), tmp_path / "plain", "transformer")
    with pytest.raises(ValueError, match=r"neither diffusion_pytorch_model.bf16.safetensors nor .*; leave variant out$"):
        read(tmp_path / "plain", variant="bf16")


def test_pickled_weights_are_not_read(tmp_path):
    tiny_transformer("sd3-medium").save_pretrained(tmp_path, safe_serialization=False)
    assert [path.name for path in tmp_path.glob("*.bin")] == ["diffusion_pytorch_model.bin"]
    with pytest.raises(ValueError, match=r"only diffusion_pytorch_model.bin is there, and pickled weights are not read: download the safe"):
        read(tmp_path)


def test_variant_and_revision_need_something_to_choose_from(tmp_path):
    with pytest.raises(ValueError, match="variant and revision choose among pretrained weights, but pretrained is null"):
        DiTBackbone(None, variant="fp16")
    write_checkpoint(tiny_transformer("sd3-medium"), tmp_path, "transformer")
    with pytest.raises(ValueError, match=rf"revision 'main' belongs to a hub id, but {re.escape(str(tmp_path))} is a folder"):
        read(tmp_path, revision="main")
