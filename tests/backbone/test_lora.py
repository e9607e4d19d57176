"""Adapters on a frozen transformer."""

import copy

import pytest
import torch
from safetensors.torch import save_file

from mimdit.backbone import DiTBackbone, LoRA
from mimdit.backbone.identity import weights_sha256
from mimdit.backbone.lora import is_adapter, load_lora
from tests.tiny_models import ARCHITECTURE, FLUX, FLUX_CONDITIONER, PIXART, randomize, tiny_backbone, tiny_batch, tiny_restorer
from tests.tiny_training import gradients

SD35 = ARCHITECTURE | {"num_layers": 3, "dual_attention_layers": [0], "qk_norm": "rms_norm"}
SIGMA = torch.tensor([0.2, 0.9])


def latents():
    return torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def adapters(backbone):
    return {name: weight for name, weight in backbone.transformer.named_parameters() if is_adapter(name)}


def learned(seed=1, **options):
    """A backbone whose adapters are far from zero."""
    backbone = tiny_backbone(**{"lora": LoRA(rank=2)} | options)
    for index, weight in enumerate(adapters(backbone).values()):
        torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(100 * seed + index))
    return backbone


@pytest.mark.parametrize("architecture", [SD35, PIXART, FLUX], ids=["sd3.5", "pixart", "flux"])
def test_adapters_do_what_adding_b_times_a_to_the_weights_does(architecture):
    backbone = learned(architecture=architecture, lora=LoRA(rank=2, alpha=6))
    plain = tiny_backbone(architecture=architecture)
    state = dict(plain.transformer.state_dict())
    for name, a in adapters(backbone).items():
        if ".lora_A." in name:
            b = adapters(backbone)[name.replace(".lora_A.", ".lora_B.")]
            state[name.replace("lora_A.default.weight", "weight")] += 6 / 2 * b.detach() @ a.detach()
    before = tiny_backbone(architecture=architecture).velocity(latents(), SIGMA)
    plain.transformer.load_state_dict(state)
    expected = plain.velocity(latents(), SIGMA)
    torch.testing.assert_close(backbone.velocity(latents(), SIGMA), expected, rtol=1e-4, atol=1e-4)
    assert (expected - before).abs().mean() > 0.01


def targets(backbone):
    return {name.split(".lora_A.")[0].removeprefix("transformer_blocks.") for name in adapters(backbone) if ".lora_A." in name}


def test_by_default_all_projections_of_the_attention_have_one_but_the_one_that_nothing_reads():
    image, text, out = ("to_q", "to_k", "to_v", "to_out.0"), ("add_q_proj", "add_k_proj", "add_v_proj"), ("to_add_out",)
    expected = {f"{block}.attn.{name}" for block in range(3) for name in image + text} | {f"{block}.attn.{out[0]}" for block in range(2)}
    expected |= {f"0.attn2.{name}" for name in image}
    assert targets(tiny_backbone(architecture=SD35, lora=LoRA())) == expected - {"2.attn.add_q_proj"}
    crossing = {f"{block}.{part}.{name}" for block in range(2) for part in ("attn1", "attn2") for name in image}
    assert targets(tiny_backbone(architecture=PIXART, lora=LoRA())) == crossing


def test_targets_and_blocks_choose():
    chosen = LoRA(targets=["attn.to_q", "ff.net.2"], blocks=[0, 2])
    assert targets(tiny_backbone(architecture=SD35, lora=chosen)) == {f"{block}.{n}" for block in (0, 2) for n in ("attn.to_q", "ff.net.2")}
    everywhere = targets(tiny_backbone(architecture=SD35, lora=LoRA(targets=["linear", "proj_out"])))
    assert "proj_out" in everywhere and "1.norm1.linear" in everywhere


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (LoRA(rank=0), r"lora rank=0 must be at least 1"),
        (LoRA(blocks=[1, 3]), r"lora blocks \[3\] do not exist: the transformer has blocks 0 to 2"),
        (LoRA(targets=["to_q", "qkv"]), r"lora targets qkv: no linear layer in use has such a name; there are .*attn\.to_q"),
        (LoRA(targets=["add_q_proj"], blocks=[2]), r"lora targets add_q_proj: no linear layer in use"),
    ],
)
def test_what_cannot_be_adapted_is_named(lora, words):
    with pytest.raises(ValueError, match=words):
        tiny_backbone(architecture=SD35, lora=lora)


def test_options_that_exclude_each_other_are_named():
    with pytest.raises(ValueError, match="trainable: true trains every weight of the backbone, and lora adapters instead"):
        tiny_backbone(trainable=True, lora=LoRA())
    with pytest.raises(ValueError, match="dtype: bfloat16 is for weights that stay frozen; with trainable: true use float32"):
        tiny_backbone(trainable=True, dtype="bfloat16")
    with pytest.raises(ValueError, match="dtype 'float16' is unknown; choose float32 or bfloat16"):
        tiny_backbone(dtype="float16")
    with pytest.raises(ValueError, match="but this backbone trains; use float32, or add lora"):
        tiny_backbone(dtype="bfloat16").configure_optimizers()


@pytest.fixture
def prompt(tmp_path):
    """Several tokens: the softmax over a single one has no gradient."""
    tensors = {"prompt_embeds": torch.randn(3, 8), "pooled_prompt_embeds": torch.randn(8)}
    save_file(tensors, tmp_path / "prompt.safetensors")
    return str(tmp_path / "prompt.safetensors")


@pytest.mark.parametrize("architecture", [SD35 | {"num_layers": 2}, PIXART, FLUX], ids=["sd3.5", "pixart", "flux"])
def test_only_the_adapters_train_and_all_of_them(architecture, prompt):
    backbone = {"architecture": architecture, "lora": LoRA(rank=2), "prompt": prompt}
    restorer = tiny_restorer(backbone=backbone, conditioner=FLUX_CONDITIONER if architecture is FLUX else None)
    first, second = gradients(restorer, [tiny_batch(seed=seed) for seed in range(2)])
    names = {f"backbone.transformer.{name}" for name in adapters(restorer.backbone)}
    assert {name for name in first if name.startswith("backbone.")} == names
    assert all(gradient is not None for gradient in first.values())
    # B begins as zero, so A has its first gradient in the second step; then none is idle.
    assert [name for name in names if not second[name].any()] == []
    assert names <= {name.replace("/", ".") for name in restorer.ema.average}


def test_fitted_alone_it_trains_the_adapters():
    backbone = tiny_backbone(lora=LoRA(rank=2))
    groups = backbone.configure_optimizers()["optimizer"].param_groups
    assert sum(len(group["params"]) for group in groups) == len(adapters(backbone))


def test_on_frozen_bf16_weights_they_are_fp32_and_residuals_may_be():
    backbone = tiny_backbone(dtype="bfloat16", lora=LoRA(rank=2))
    assert {weight.dtype for weight in adapters(backbone).values()} == {torch.float32}
    assert {tensor.dtype for name, tensor in backbone.transformer.state_dict().items() if not is_adapter(name)} == {torch.bfloat16}
    bare = tiny_backbone(dtype="bfloat16")
    residuals = [torch.randn(2, 24, 16) for _ in range(2)]
    velocity = backbone.velocity(latents(), SIGMA, residuals)
    assert torch.equal(velocity, bare.velocity(latents(), SIGMA, residuals)) and velocity.dtype == torch.bfloat16
    torch.testing.assert_close(velocity.float(), tiny_backbone().velocity(latents(), SIGMA, residuals), rtol=0.1, atol=0.1)
    velocity.float().square().mean().backward()
    assert all(weight.grad.dtype == torch.float32 for weight in adapters(backbone).values())


@pytest.mark.parametrize("architecture", [SD35, PIXART, FLUX], ids=["sd3.5", "pixart", "flux"])
def test_the_hash_is_that_of_the_weights_under_them(architecture):
    bare, adapted = tiny_backbone(architecture=architecture), learned(architecture=architecture)
    assert weights_sha256(adapted.transformer) == weights_sha256(bare.transformer)
    half = learned(architecture=architecture, dtype="bfloat16")
    assert weights_sha256(half.transformer) == weights_sha256(bare.transformer)
    with torch.no_grad():
        next(weight for name, weight in adapted.transformer.named_parameters() if ".base_layer." in name)[0] += 1
    assert weights_sha256(adapted.transformer) != weights_sha256(bare.transformer)


@pytest.mark.parametrize("architecture", [SD35, PIXART, FLUX], ids=["sd3.5", "pixart", "flux"])
def test_saved_adapters_are_equal_to_the_bit_wherever_they_are_put(architecture, tmp_path):
    backbone = learned(architecture=architecture, lora=LoRA(rank=2, alpha=5, blocks=[1]))
    expected = backbone.velocity(latents(), SIGMA)
    backbone.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_lora_weights.safetensors"]
    told = tiny_backbone(architecture=architecture, lora=LoRA(rank=2, alpha=5, blocks=[1], pretrained=str(tmp_path)))
    bare = tiny_backbone(architecture=architecture)
    assert not torch.equal(bare.velocity(latents(), SIGMA), expected)
    bare.load_lora(tmp_path)
    for again in (told, bare):
        assert torch.equal(again.velocity(latents(), SIGMA), expected)
    bare.save_pretrained(tmp_path / "again")
    assert tiny_backbone(architecture=architecture, lora=bare.lora).load_lora(tmp_path / "again") is None


@pytest.mark.parametrize("architecture", [SD35, FLUX], ids=["sd3.5", "flux"])
def test_diffusers_reads_what_is_written_and_is_read(architecture, tmp_path):
    backbone = learned(architecture=architecture, lora=LoRA(rank=2, alpha=5))
    expected = backbone.velocity(latents(), SIGMA)
    backbone.save_pretrained(tmp_path)
    theirs = tiny_backbone(architecture=architecture)
    theirs.transformer.load_lora_adapter(tmp_path, adapter_name="any", use_safetensors=True)
    assert torch.equal(theirs.velocity(latents(), SIGMA), expected)

    theirs.transformer.save_lora_adapter(tmp_path / "theirs", adapter_name="any")
    ours = tiny_backbone(architecture=architecture)
    ours.load_lora(tmp_path / "theirs")
    assert torch.equal(ours.velocity(latents(), SIGMA), expected) and (ours.lora.rank, ours.lora.alpha) == (2, 5)


def test_adapters_that_do_not_fit_are_named(tmp_path):
    learned().save_pretrained(tmp_path)
    for other in (LoRA(rank=3), LoRA(rank=2, alpha=1), LoRA(rank=2, blocks=[0])):
        with pytest.raises(ValueError, match=rf"adapters in {tmp_path} do not fit: they have rank=2, alpha=2 and 14 targets, .*alike"):
            tiny_backbone(lora=LoRA(other.rank, other.alpha, other.targets, other.blocks, str(tmp_path)))
    wider = tiny_backbone(architecture=ARCHITECTURE | {"attention_head_dim": 12, "caption_projection_dim": 24})
    with pytest.raises(ValueError, match="do not fit"):
        wider.load_lora(tmp_path)
    with pytest.raises(ValueError, match=rf"{tmp_path} holds adapters of another transformer: .*; give the backbone they were"):
        tiny_backbone(architecture=PIXART).load_lora(tmp_path)


def test_a_file_that_holds_no_adapters_is_named(tmp_path):
    transformer = tiny_backbone().transformer
    with pytest.raises(ValueError, match=r"pytorch_lora_weights.safetensors does not exist; give a folder of adapters"):
        load_lora(transformer, tmp_path)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({"transformer.any": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=rf"{file} has no metadata of rank and targets"):
        load_lora(transformer, tmp_path)
    file.write_text("not safetensors")
    with pytest.raises(ValueError, match=rf"{file} cannot be read"):
        load_lora(transformer, tmp_path)


def test_a_copy_has_adapters_of_its_own():
    backbone = learned()
    expected = backbone.velocity(latents(), SIGMA)
    other = copy.deepcopy(backbone)
    randomize(other.transformer, 9)
    assert torch.equal(backbone.velocity(latents(), SIGMA), expected)
    assert isinstance(other, DiTBackbone) and not torch.equal(other.velocity(latents(), SIGMA), expected)


@pytest.mark.parametrize("architecture", [ARCHITECTURE, PIXART, FLUX], ids=["sd3", "pixart", "flux"])
def test_under_autocast_a_frozen_bf16_base_trains_its_adapters(architecture):
    backbone = {"architecture": architecture, "dtype": "bfloat16", "lora": LoRA(rank=2), "checkpointing": True}
    restorer = tiny_restorer(backbone=backbone, conditioner=FLUX_CONDITIONER if architecture is FLUX else None)
    for step in gradients(restorer, [tiny_batch(seed=seed) for seed in range(2)], precision="bf16-mixed"):
        assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in step.values())
    assert {weight.dtype for weight in adapters(restorer.backbone).values()} == {torch.float32}
