"""Experts inside the backbone: what is saved, what identifies it, and what trains where it is fitted by itself."""

import copy

import pytest
import torch
from diffusers import PixArtTransformer2DModel, SD3Transformer2DModel
from safetensors.torch import save_file
from torch import nn

from mimdit.backbone import DiTBackbone, InnerExperts, LoRA
from mimdit.backbone.identity import weights_sha256
from mimdit.backbone.inner_experts import FILE, is_expert
from mimdit.backbone.lora import is_adapter
from mimdit.routing.token_routing import TokenRouting
from mimdit.training.flops import count_flops, meta_twin
from tests.tiny_models import ARCHITECTURE, PIXART, tiny_backbone, tiny_batch
from tests.tiny_training import gradients, train

SIGMA = torch.tensor([0.2, 0.9])
FAMILIES = pytest.mark.parametrize("architecture", [ARCHITECTURE, PIXART], ids=["sd3", "pixart"])


def latents():
    return torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def experts(backbone):
    return {name: parameter for name, parameter in backbone.transformer.named_parameters() if is_expert(name)}


def learned(seed: int = 1, **options) -> DiTBackbone:
    """A backbone whose experts are far from zero."""
    backbone = tiny_backbone(**{"moe": InnerExperts(every=1, num_experts=4)} | options)
    for index, weight in enumerate(experts(backbone).values()):
        nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(100 * seed + index))
    return backbone


@FAMILIES
def test_the_identity_and_the_names_are_those_of_the_transformer_without_them(architecture):
    plain, upcycled = tiny_backbone(architecture=architecture), learned(architecture=architecture)
    assert weights_sha256(upcycled.transformer) == weights_sha256(plain.transformer)
    assert upcycled.frozen_state().keys() == plain.frozen_state().keys()
    assert {name for name in upcycled.state_dict() if not is_expert(name)} == plain.state_dict().keys()
    with torch.no_grad():
        upcycled.transformer.transformer_blocks[0].ff.net[2].bias[0] += 1
    assert weights_sha256(upcycled.transformer) != weights_sha256(plain.transformer)


def test_every_chooses_the_blocks():
    architecture = ARCHITECTURE | {"num_layers": 5}
    for every, blocks in {1: {0, 1, 2, 3, 4}, 2: {1, 3}, 5: {4}}.items():
        names = experts(tiny_backbone(architecture=architecture, moe=InnerExperts(every=every)))
        assert {int(name.split(".")[1]) for name in names} == blocks


@FAMILIES
def test_a_written_folder_holds_the_plain_transformer_and_its_experts(architecture, tmp_path):
    backbone = learned(architecture=architecture, moe=InnerExperts(every=1, num_experts=6, top_k=3, granularity=4, balance=0.5))
    expected = backbone.velocity(latents(), SIGMA)
    backbone.save_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(backbone.velocity(latents(), SIGMA), expected)
    again = DiTBackbone(str(tmp_path))
    assert torch.equal(again.velocity(latents(), SIGMA), expected)
    assert (again.moe.num_experts, again.moe.top_k, again.moe.granularity, again.moe.balance) == (6, 3, 4, 0.5)
    kind = PixArtTransformer2DModel if architecture is PIXART else SD3Transformer2DModel
    theirs, missing = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(missing.values()) and weights_sha256(theirs) == weights_sha256(backbone.transformer)
    further = DiTBackbone(str(tmp_path), moe=InnerExperts(every=1, num_experts=6, top_k=3, granularity=4, z=1.0))
    assert torch.equal(further.velocity(latents(), SIGMA), expected) and further.moe.z == 1
    with pytest.raises(
        ValueError, match="do not fit: they have every=1, num_experts=6, top_k=3, granularity=4, these have every=1, num_ex"
    ):
        DiTBackbone(str(tmp_path), moe=InnerExperts(every=1, num_experts=6, top_k=2, granularity=4))


def test_experts_of_another_backbone_are_given_by_their_folder(tmp_path):
    backbone = learned()
    backbone.save_experts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    bare = tiny_backbone()
    bare.load_experts(tmp_path)
    given = tiny_backbone(moe=InnerExperts(every=1, num_experts=4, pretrained=str(tmp_path)))
    for other in (bare, given):
        assert torch.equal(other.velocity(latents(), SIGMA), backbone.velocity(latents(), SIGMA))
    with pytest.raises(ValueError, match=f"the experts in {tmp_path} do not fit"):
        tiny_backbone(moe=InnerExperts(every=2, num_experts=4)).load_experts(tmp_path)


def test_a_file_that_holds_no_experts_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{FILE} does not exist; give a folder that mimdit export wrote from a backbone with moe"):
        tiny_backbone().load_experts(tmp_path)
    save_file({"any": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(ValueError, match=f"{FILE} cannot be read as experts"):
        tiny_backbone().load_experts(tmp_path)


def test_a_copy_has_experts_of_its_own():
    backbone = learned()
    expected = backbone.velocity(latents(), SIGMA)
    other = copy.deepcopy(backbone)
    nn.init.ones_(other.transformer.transformer_blocks[0].ff.experts.weight_out_EDH)
    assert torch.equal(backbone.velocity(latents(), SIGMA), expected) and not torch.equal(other.velocity(latents(), SIGMA), expected)


def test_int8_leaves_them_as_they_are(tmp_path):
    pytest.importorskip("torchao")
    backbone = learned(architecture=ARCHITECTURE | {"attention_head_dim": 16, "caption_projection_dim": 32})
    before, expected = experts(backbone), backbone.velocity(latents(), SIGMA)
    backbone.quantize(torch.float32)
    assert all(torch.equal(after, before[name]) for name, after in experts(backbone).items())
    quantized = backbone.velocity(latents(), SIGMA)
    assert not torch.equal(quantized, expected)
    torch.testing.assert_close(quantized, expected, rtol=0.2, atol=0.2)
    backbone.save_pretrained(tmp_path)
    assert torch.equal(DiTBackbone(str(tmp_path)).velocity(latents(), SIGMA), quantized)


def test_the_routing_of_the_tokens_is_given_to_the_caller():
    backbone, seen = learned(moe=InnerExperts(num_experts=4, top_k=3)), list[TokenRouting]()
    backbone.velocity(latents(), SIGMA, on_tokens=seen.append)
    (routing,) = seen
    assert routing.logits_LTE.shape == (1, 48, 4) and routing.indices_LTK.shape == (1, 48, 3) and routing.blocks == (1,)
    assert torch.equal(routing.sigma_B, SIGMA)
    tiny_backbone().velocity(latents(), SIGMA, on_tokens=seen.append)
    assert len(seen) == 1


def test_fitted_by_itself_it_trains_with_its_routing_losses():
    batch, options = tiny_batch(), {"architecture": PIXART, "seed": 3}
    without, heavy = (tiny_backbone(moe=InnerExperts(every=1, balance=weight, z=weight), **options) for weight in (0, 100.0))
    (plain,), (balanced,) = gradients(without, [batch]), gradients(heavy, [batch])
    assert plain.keys() == balanced.keys() and all(gradient is not None for gradient in plain.values())
    changed = {name for name in plain if not torch.allclose(plain[name], balanced[name], rtol=1e-4, atol=1e-6)}
    routers = {f"transformer.{name}" for name in experts(heavy) if ".router." in name}
    assert changed == routers and len(routers) == 4


def test_with_adapters_only_these_and_the_experts_train():
    backbone = tiny_backbone(moe=InnerExperts(), lora=LoRA(rank=2, targets=["attn.to_q", "ff.net.2"]))
    train(backbone, [tiny_batch()])
    trained = {name for name, parameter in backbone.transformer.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in backbone.transformer.named_parameters() if is_adapter(name) or is_expert(name)}
    assert any(is_adapter(name) and "blocks.1.ff.net" in name for name in trained) and any(map(is_expert, trained))


@pytest.mark.parametrize(("top_k", "dispatch"), [(1, "auto"), (3, "auto"), (3, "grouped")])
def test_only_active_experts_count_as_operations(top_k, dispatch):
    def flops(**options) -> int:
        twin = meta_twin(tiny_backbone(**options))
        return count_flops(lambda: twin.velocity(latents().to("meta"), SIGMA.to("meta")))

    tokens, dim, hidden, num_experts = 2 * 4 * 6, 16, 64, 8
    router = 2 * tokens * dim * num_experts
    per_token = 2 * 2 * dim * hidden // 4
    added = flops(moe=InnerExperts(top_k=top_k, granularity=4, dispatch=dispatch)) - flops()
    assert added == router * 2 + tokens * top_k * per_token  # the logits are computed a second time for the losses


@FAMILIES
def test_compiled_blocks_and_eager_ones_agree(architecture):
    backbone = learned(architecture=architecture)
    expected, seen = backbone.velocity(latents(), SIGMA), list[TokenRouting]()
    torch._dynamo.reset()
    for block in backbone.transformer.transformer_blocks:
        block.compile(backend="eager")
    for _ in range(2):
        torch.testing.assert_close(backbone.velocity(latents(), SIGMA, on_tokens=seen.append), expected)
    assert [len(routing.logits_LTE) for routing in seen] == [2, 2]
