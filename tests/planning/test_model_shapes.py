"""Models of a config without weights: their shapes are those of the real ones."""

import json

import pytest
import torch
from jsonargparse import ArgumentParser

from mimdit.backbone.inner_experts import InnerExperts, blocks_with_experts
from mimdit.backbone.lora import LoRA
from mimdit.backbone.prompts import write_prompts
from mimdit.planning.model_shapes import ARCHITECTURES, CLIP_TOKENS, FLUX_TOKENS, build, find_config
from mimdit.restorer.restorer import Restorer
from tests.tiny_models import ARCHITECTURE, FLUX, FLUX_CONDITIONER, restorer_config, tiny_backbone

SD35, FLUX_DEV = "stabilityai/stable-diffusion-3.5-medium", "black-forest-labs/FLUX.1-dev"


def shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def test_a_restorer_is_built_without_data():
    built = build(restorer_config())
    assert all(parameter.is_meta for parameter in built.parameters())
    assert shapes(built.backbone.transformer) == shapes(tiny_backbone().transformer)


def test_a_pretrained_part_needs_only_its_config(tmp_path):
    (tmp_path / "transformer").mkdir()
    config = ARCHITECTURE | {"_class_name": "SD3Transformer2DModel"}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    built = build({"class_path": "mimdit.DiTBackbone", "init_args": {"pretrained": str(tmp_path), "prompt": "not/there.safetensors"}})
    assert shapes(built.transformer) == shapes(tiny_backbone().transformer)
    assert built.prompts.prompt_embeds.shape[1] == CLIP_TOKENS


def test_experts_that_come_with_a_pretrained_transformer_are_planned(tmp_path):
    saved = tiny_backbone(moe=InnerExperts(every=1, num_experts=4))
    saved.save_pretrained(tmp_path)
    built = build({"class_path": "mimdit.DiTBackbone", "init_args": {"pretrained": str(tmp_path)}})
    assert blocks_with_experts(built.transformer) == (0, 1)
    assert shapes(built.transformer) == shapes(saved.transformer)


@pytest.mark.parametrize("saved", [True, False], ids=["with experts", "without"])
def test_experts_of_another_folder_are_planned_as_the_config_describes_them(tmp_path, saved):
    tiny_backbone(moe=InnerExperts(every=1, num_experts=4) if saved else None).save_pretrained(tmp_path)
    own = InnerExperts(every=2, num_experts=3)
    given = {"pretrained": str(tmp_path), "moe": {"every": 2, "num_experts": 3, "pretrained": "/nowhere"}}
    built = build({"class_path": "mimdit.DiTBackbone", "init_args": given})
    assert shapes(built.transformer) == shapes(tiny_backbone(moe=own).transformer)


@pytest.mark.parametrize("as_class", [False, True])
def test_adapters_are_planned_without_the_folder_that_they_start_from(as_class):
    lora = {"rank": 2, "pretrained": "/nowhere"}
    config = restorer_config()
    given = {"class_path": "mimdit.backbone.lora.LoRA", "init_args": lora} if as_class else lora
    config["init_args"]["backbone"]["init_args"]["lora"] = given
    assert shapes(build(config).backbone.transformer) == shapes(tiny_backbone(lora=LoRA(rank=2)).transformer)


def test_guidance_is_planned_without_the_prompts_that_it_needs():
    config = restorer_config()
    config["init_args"]["backbone"]["init_args"] |= {"prompt": "not/there.safetensors", "prompt_text": "a photograph"}
    config["init_args"]["flow"]["init_args"]["guidance"] = 2
    assert build(config).backbone.prompts.prompt_embeds.shape[1] == CLIP_TOKENS


def test_guidance_without_a_prompt_is_refused_as_by_fit():
    config = restorer_config()
    config["init_args"]["flow"]["init_args"]["guidance"] = 2
    with pytest.raises(ValueError, match="guidance"):
        build(config)


@pytest.mark.parametrize(("option", "value"), [("guidance", 2.0), ("prompt_dropout", 0.1)])
def test_classifier_free_guidance_of_flux_is_refused_in_the_words_of_fit(tmp_path, option, value):
    config = restorer_config()
    parts = config["init_args"]
    parts["conditioner"]["init_args"] |= FLUX_CONDITIONER
    parts["backbone"]["init_args"] |= {"architecture": FLUX, "prompt": str(tmp_path / "prompts.safetensors"), "prompt_text": "a photograph"}
    write_prompts(tmp_path / "prompts.safetensors", ["", "a photograph"], torch.zeros(2, 3, 8), torch.zeros(2, 8), made_with="this test")
    assert build(config).backbone.prompts.prompt_embeds.shape[1] == 3
    parts["flow" if option == "guidance" else "backbone"]["init_args"][option] = value
    with pytest.raises(ValueError, match=f"{option}={value} is classifier-free guidance, but .* is embedded") as planned:
        build(config)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Restorer, "model")
    with pytest.raises(ValueError, match="classifier-free") as fitted:
        parser.instantiate_classes(parser.parse_object({"model": config}))
    assert str(planned.value) in str(fitted.value)


def test_unknown_sizes_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="hf download nobody/nothing transformer/config.json"):
        find_config("nobody/nothing", "transformer")


def test_a_prompt_of_flux_has_t5s_tokens_where_its_file_is_not_there(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(FLUX))
    built = build({"class_path": "mimdit.DiTBackbone", "init_args": {"pretrained": str(tmp_path), "prompt": "not/there.safetensors"}})
    assert shapes(built.transformer) == shapes(tiny_backbone(architecture=FLUX).transformer)
    assert built.prompts.prompt_embeds.shape[1] == FLUX_TOKENS


@pytest.mark.parametrize(
    ("name", "part", "kind", "millions"),
    [
        (SD35, "transformer", "SD3Transformer2DModel", 2243),
        (SD35, "vae", "AutoencoderKL", 84),
        (FLUX_DEV, "transformer", "FluxTransformer2DModel", 11901),
        (FLUX_DEV, "vae", "AutoencoderKL", 84),
    ],
)
def test_the_sizes_are_those_published(name, part, kind, millions):
    import diffusers

    config = json.loads((find_config(name, part) / "config.json").read_text())
    assert find_config(name, part).is_relative_to(ARCHITECTURES)
    with torch.device("meta"):
        model = getattr(diffusers, kind).from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.6)
