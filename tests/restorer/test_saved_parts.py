"""Parts of a restorer's folder beside the conditioner: the backbone with its inputs, and what an earlier restorer left."""

import pytest
import torch

from mimdit.backbone import InnerExperts, LoRA
from mimdit.backbone.inner_experts import is_expert
from mimdit.backbone.prompts import OTHER, write_prompts
from mimdit.core.batch import ATOMS
from mimdit.restorer.pipeline import MiMDiTPipeline
from mimdit.restorer.restorer import Restorer
from tests.tiny_models import FLUX, FLUX_CONDITIONER, randomize, tiny_backbone, tiny_restorer

FLOW = {"start": "noise", "steps": 2}


def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def prompts(folder, *, by_degradation: bool) -> str:
    texts = ["", "a photo", *(f"a photo with {atom}" for atom in ATOMS)] if by_degradation else ["a photo", ""]
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(len(texts), 5, 8, generator=generator), torch.randn(len(texts), 8, generator=generator)
    atoms = {"atoms": [OTHER, OTHER, *ATOMS], "encoding": {"t5": False}} if by_degradation else {}
    write_prompts(folder / "given.safetensors", texts, *embeddings, made_with="a test", **atoms)
    return str(folder / "given.safetensors")


def living(**options) -> Restorer:
    restorer = tiny_restorer(flow=FLOW, **options).eval()
    randomize(restorer, 1)
    restorer.ema.restart()
    return restorer


@pytest.mark.parametrize("by_degradation", [False, True])
@pytest.mark.parametrize("trainable", [False, True])
def test_a_folder_with_the_backbone_holds_its_prompts(tmp_path, trainable, by_degradation):
    backbone = {"prompt": prompts(tmp_path, by_degradation=by_degradation), "prompt_text": "a photo", "trainable": trainable}
    restorer = living(backbone=backbone, conditioner={"identify": True}, prompting="detected" if by_degradation else "none")
    if trainable:
        restorer.save_pretrained(tmp_path / "saved", dtype=torch.float32)
    else:
        MiMDiTPipeline(restorer).save_pretrained(tmp_path / "saved")
    (tmp_path / "given.safetensors").unlink()
    again = Restorer.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.restore(images()), restorer.restore(images()))
    assert torch.equal(again.restore(images(), guidance=2.0), restorer.restore(images(), guidance=2.0))
    if by_degradation:
        haze = {"prompt": "a photo with haze"}
        assert torch.equal(again.restore(images(), **haze), restorer.restore(images(), **haze))


def test_a_folder_with_the_backbone_holds_the_guidance_that_it_reads(tmp_path):
    backbone = {"architecture": FLUX, "embedded_guidance": 1.0, "trainable": True}
    living(backbone=backbone, conditioner=FLUX_CONDITIONER).save_pretrained(tmp_path, dtype=torch.float32)
    assert Restorer.from_pretrained(tmp_path).backbone.embedded_guidance == 1.0


def test_a_pipelines_folder_holds_the_averaged_transformer(tmp_path):
    restorer = living(backbone={"trainable": True})
    average = {name: weight.clone() for name, weight in restorer.backbone.transformer.named_parameters()}
    for weight in restorer.backbone.transformer.parameters():
        weight.data += 0.1
    MiMDiTPipeline(restorer).save_pretrained(tmp_path)
    for name, weight in Restorer.from_pretrained(tmp_path).backbone.transformer.named_parameters():
        assert torch.equal(weight, average[name])


@pytest.mark.parametrize(
    "earlier",
    [{"moe": InnerExperts(every=1, num_experts=2)}, {"lora": LoRA(rank=2)}, {"trainable": True}],
    ids=["experts", "lora", "backbone"],
)
def test_what_an_earlier_restorer_left_in_the_folder_is_not_read(tmp_path, earlier):
    left = living(backbone=earlier)
    for name, weight in left.named_parameters():
        if is_expert(name) or "lora_" in name:
            torch.nn.init.normal_(weight)
    left.ema.restart()
    left.save_pretrained(tmp_path)
    restorer = living()
    restorer.save_pretrained(tmp_path)
    backbone = tiny_backbone()
    backbone.transformer.load_state_dict(restorer.backbone.transformer.state_dict())
    again = Restorer.from_pretrained(tmp_path, backbone=backbone)
    assert torch.equal(again.restore(images()), restorer.restore(images()))
    tiny_restorer(pretrained=str(tmp_path))  # training starts from it, too, without adapters or experts
