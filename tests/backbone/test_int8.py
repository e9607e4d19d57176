"""A transformer whose linear layers are int8, by torchao."""

from importlib.util import find_spec

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import nn

from mimdit import cli
from mimdit.backbone import DiTBackbone, LoRA
from mimdit.backbone import int8 as int8_module
from mimdit.restorer.pipeline import MiMDiTPipeline
from mimdit.restorer.restorer import Restorer
from tests.tiny_models import randomize, tiny_backbone, tiny_restorer

with_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao; pip install 'mimdit[int8]'")
LATENTS, SIGMA = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.8])


@with_torchao
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_it_works_as_the_transformer_with_each_weight_rounded(tmp_path, dtype):
    backbone = tiny_backbone()
    plain = {name: weight.clone() for name, weight in backbone.transformer.to(dtype).state_dict().items()}
    backbone.quantize(dtype)
    for name, layer in backbone.transformer.named_modules():
        if isinstance(layer, nn.Linear):
            weight = plain[f"{name}.weight"].float()
            step = weight.abs().amax(dim=1, keepdim=True) / 127
            rounded = layer.weight.dequantize()
            assert ((rounded.float() - weight).abs() <= step * (0.51 if dtype == torch.float32 else 1.2)).all(), name
            plain[f"{name}.weight"] = rounded
    expected = tiny_backbone()
    expected.transformer.to(dtype).load_state_dict(plain)
    torch.testing.assert_close(
        backbone.velocity(LATENTS, SIGMA), expected.velocity(LATENTS, SIGMA), atol=1e-5 if dtype == torch.float32 else 0.05, rtol=0.02
    )


@with_torchao
@torch.no_grad()
def test_a_folder_keeps_it_to_the_bit_and_diffusers_reads_it(tmp_path):
    backbone = tiny_backbone()
    backbone.quantize(torch.float32)
    backbone.save_pretrained(tmp_path)
    again = DiTBackbone(str(tmp_path))
    assert torch.equal(again.velocity(LATENTS, SIGMA), backbone.velocity(LATENTS, SIGMA))
    assert again.frozen_identity["transformer"]["sha256"] == backbone.frozen_identity["transformer"]["sha256"]
    weight = SD3Transformer2DModel.from_pretrained(tmp_path, torch_dtype=torch.float32).transformer_blocks[0].attn.to_q.weight
    assert torch.equal(weight.dequantize(), backbone.transformer.transformer_blocks[0].attn.to_q.weight.dequantize())


@with_torchao
@pytest.mark.parametrize("options", [{"trainable": True}, {"lora": LoRA(rank=2)}])
def test_it_does_not_train(tmp_path, options):
    backbone = tiny_backbone()
    backbone.quantize(torch.float32)
    backbone.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="int8 transformer is for inference, not for training"):
        DiTBackbone(str(tmp_path), **options)


@with_torchao
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_complete_export_restores_as_what_was_exported_and_is_smaller(tmp_path, capsys, dtype):
    model = tiny_restorer(conditioner={"estimate": True, "num_experts": 4}, flow={"start": "estimate", "sigma_start": 0.3}).eval()
    randomize(model.conditioner, 1)
    MiMDiTPipeline(model).save_pretrained(tmp_path / "own")
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    cli.main(["export", str(tmp_path / "own"), str(tmp_path / "int8"), "--complete", "--int8", "--dtype", dtype])
    cli.main(["export", str(tmp_path / "own"), str(tmp_path / "plain"), "--complete", "--dtype", dtype])
    ours, plain = (Restorer.from_pretrained(tmp_path / name) for name in ("int8", "plain"))
    difference = (ours.restore(images) - plain.restore(images)).abs()
    assert 0 < difference.max() < 0.05
    pipeline = MiMDiTPipeline(ours)
    pipeline.save_pretrained(tmp_path / "again")
    assert torch.equal(MiMDiTPipeline.from_pretrained(tmp_path / "again").restorer.restore(images), ours.restore(images))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["export", str(tmp_path / "int8"), str(tmp_path / "twice"), "--int8"])
    assert "is int8 already; export the one it was made from" in capsys.readouterr().err


def test_without_torchao_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(int8_module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"int8 needs torchao, .*pip install 'mimdit\[int8\]'"):
        tiny_backbone().quantize(torch.float32)
    tiny_backbone().save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("{", '{"quantization_config": {"quant_method": "torchao"}, ', 1))
    with pytest.raises(ValueError, match=r"which is int8, needs torchao, .*pip install 'mimdit\[int8\]'"):
        DiTBackbone(str(tmp_path))
