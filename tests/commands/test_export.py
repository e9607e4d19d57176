"""``mimdit fit`` of an adapted backbone by a config, and ``mimdit export`` of what it trained."""

import re
import sys
from pathlib import Path

import cv2
import lightning as L
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from torch.utils.data import DataLoader

from mimdit import cli
from mimdit.backbone import DiTBackbone, LoRA
from mimdit.conditioner.pruning import prune
from mimdit.evaluation.results import Results, write_results
from mimdit.evaluation.summary import summarize
from mimdit.restorer.pipeline import MiMDiTPipeline
from mimdit.restorer.restorer import Restorer
from mimdit.weights import EMBEDDED_RESTORER
from tests.tiny_models import randomize, tiny_backbone, tiny_batch, tiny_conditioner, tiny_restorer


class Pairs(L.LightningDataModule):
    """Two batches."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader([tiny_batch(seed=seed) for seed in range(2)], batch_size=None)


QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu", "max_steps": 2}
CONDITIONER = {"latent_channels": 3, "token_dim": 16, "num_layers": 2, "token_patch": 4, "dim": 8, "num_blocks": 1, "num_experts": 3}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Fit what a config describes, its backbone in a folder, by the command line; return the checkpoint and the backbone's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mimdit"])
    tiny_backbone().save_pretrained(tmp_path / "base", dtype=torch.float32)
    backbone = {"class_path": "mimdit.DiTBackbone", "init_args": {"pretrained": "base", "lora": {"rank": 2, "targets": ["to_q", "to_v"]}}}

    def fit(model: dict | None) -> tuple[str, str]:
        saving = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": "run", "save_last": True}}
        restorer = {"class_path": "mimdit.Restorer", "init_args": {"backbone": backbone} | (model or {})}
        content = {
            "trainer": QUIET | {"callbacks": [saving]},
            "model": backbone if model is None else restorer,
            "data": {"class_path": f"{__name__}.Pairs"},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
        cli.main(["fit", "--config", "config.yaml"])
        return "run/last.ckpt", "base"

    return fit


def test_an_adapted_backbone_fitted_alone_becomes_a_folder_of_adapters(trained, capsys):
    checkpoint, base = trained(None)
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["state_dict"] and all(".lora_" in name for name in saved["state_dict"]) and "transformer" in saved["frozen"]
    with pytest.raises(SystemExit):
        cli.main(["export", checkpoint, "adapters", "--license=mit"])
    assert "model card's license, trained_on, datasets and results are for restorers" in capsys.readouterr().err
    cli.main(["export", checkpoint, "adapters"])
    told = DiTBackbone(base, lora=LoRA(rank=2, targets=["to_q", "to_v"], pretrained="adapters"))
    for name, tensor in saved["state_dict"].items():
        assert torch.equal(told.state_dict()[name], tensor) and tensor.any()


def test_an_adapted_restorer_becomes_a_folder_that_brings_its_adapters(trained):
    model = {
        "conditioner": {"class_path": "mimdit.MoEConditioner", "init_args": CONDITIONER},
        "balance": {"class_path": "mimdit.RoutingBalance"},
        "flow": {"class_path": "mimdit.flow.FlowMatching", "init_args": {"steps": 2}},
    }
    checkpoint, base = trained(model)
    average = {name: weight for name, weight in torch.load(checkpoint)["state_dict"].items() if name.startswith("ema.") and "lora_" in name}
    cli.main(["export", checkpoint, "folder"])
    state = Restorer.from_pretrained("folder", backbone=DiTBackbone(base)).state_dict()
    assert len(average) == 8
    for name, tensor in average.items():
        assert torch.equal(state[name.removeprefix("ema.average.").replace("/", ".")], tensor)


def estimating():
    """A restorer of which nothing is zero, and images that its gates tell apart."""
    model = tiny_restorer(conditioner={"estimate": True, "num_experts": 4}, flow={"start": "estimate", "sigma_start": 0.3}).eval()
    randomize(model.conditioner, 1)
    model = model.with_conditioner(model.conditioner)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return model, images * torch.tensor([0.1, 0.5, 1.0])[:, None, None, None]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_complete_folder_needs_nothing_else(tmp_path, dtype):
    model, images = estimating()
    MiMDiTPipeline(model).save_pretrained(tmp_path / "own")
    cli.main(["export", str(tmp_path / "own"), str(tmp_path / "complete"), "--complete", "--dtype", dtype])
    restored = MiMDiTPipeline.from_pretrained(tmp_path / "complete").restorer.restore(images)
    assert torch.equal(restored, model.restore(images)) == (dtype == "float32")
    model.backbone.round_weights(torch.bfloat16)
    assert torch.equal(restored, model.restore(images)) == (dtype == "bfloat16")


@pytest.mark.parametrize("checkpoint", [str(EMBEDDED_RESTORER), "embedded"])
def test_a_folder_or_the_packages_weights_exported_again_keep_their_measured_gates(tmp_path, checkpoint):
    cli.main(["export", checkpoint, str(tmp_path / "again")])
    again, embedded = (Restorer.from_pretrained(folder).measured_gates for folder in (tmp_path / "again", EMBEDDED_RESTORER))
    assert again.as_json() == embedded.as_json()


def test_a_folder_has_a_model_card_that_the_hub_reads_and_an_edited_one_stays(tmp_path, capsys):
    MiMDiTPipeline(estimating()[0]).save_pretrained(tmp_path / "own")
    cli.main(["export", str(tmp_path / "own"), str(tmp_path / "card"), "--license=apache-2.0", "--trained_on=A thousand pairs."])
    card = ModelCard.load(tmp_path / "card" / "README.md")
    assert (card.data.license, card.data.pipeline_tag, card.data.library_name) == ("apache-2.0", "image-to-image", "mimdit")
    assert all(words in card.text for words in ("A thousand pairs.", "## Intended use", "Not measured", "`apache-2.0`"))
    (tmp_path / "card" / "README.md").write_text("mine")
    cli.main(["export", str(tmp_path / "own"), str(tmp_path / "card")])
    assert (
        tmp_path / "card" / "README.md"
    ).read_text() == "mine" and "README.md, which may describe earlier weights" in capsys.readouterr().out
    cli.main(["export", str(tmp_path / "own"), str(tmp_path / "open")])
    card = ModelCard.load(tmp_path / "open" / "README.md")
    assert card.data.license is None and card.text.count("Not stated.") == 2


def test_a_model_card_names_data_sets_and_takes_the_results_of_a_test(tmp_path, capsys):
    MiMDiTPipeline(estimating()[0]).save_pretrained(tmp_path / "own")
    scores = {"degradations": ["noise"], "identical_input": False, "notes": {}, "input": {"psnr": 20.0}, "output": {"psnr": 25.0}}
    rows = [{"test_set": "made", "group": "05Noise", "key": key} | scores for key in "ab"]
    write_results(tmp_path / "run" / "results.json", Results(summarize(rows), rows))
    told = ["--datasets=someone/pairs", "--datasets=other/pairs", f"--results={tmp_path / 'run'}"]
    cli.main(["export", str(tmp_path / "own"), str(tmp_path / "card"), *told])
    card = ModelCard.load(tmp_path / "card" / "README.md")
    assert card.data.datasets == ["someone/pairs", "other/pairs"] and "| made | 2 | 20.00 | 25.00 |" in card.text
    with pytest.raises(SystemExit):
        cli.main(["export", str(tmp_path / "own"), str(tmp_path / "none"), f"--results={tmp_path / 'own'}"])
    assert "holds neither results.jsonl nor results.json" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_pruning_leaves_what_no_image_chose_and_changes_nothing():
    model, images = estimating()
    seen = []
    whole = model.restore(images[:1], on_decisions=seen.append)
    chosen = seen[0].routing.intra.weights.squeeze(2) > 0  # [M, G, E]
    pruned = model.with_conditioner(prune(model.conditioner, chosen.float(), 2))
    assert pruned.conditioner.config["num_experts"] == 2
    assert pruned.conditioner.parameter_counts().stored < model.conditioner.parameter_counts().active
    torch.testing.assert_close(pruned.restore(images[:1]), whole)
    with pytest.raises(ValueError, match=r"1 sub-experts a group cannot be kept of num_experts=4 .* choose 2\.\.4"):
        prune(model.conditioner, chosen.float(), 1)


def test_experts_of_a_coarse_grid_are_pruned_like_others():
    conditioner = tiny_conditioner(moe_dim=12, moe_stride=2, num_experts=4, feed_forward="conv", identify=True)
    randomize(conditioner, 1)
    latents = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    said = conditioner(latents)
    pruned = prune(conditioner, (said.routing.intra.weights.squeeze(2) > 0).float(), 2)
    assert pruned.config["num_experts"] == 2 and pruned.config["hidden"] == 6
    torch.testing.assert_close(pruned(latents).residuals, said.residuals)
    torch.testing.assert_close(pruned(latents).identified, said.identified)


def mean_psnr(folder):
    """PSNR of the degraded images against the true ones, of the first two groups in turn and the clean one."""
    values = []
    for group, names in (("00Clean", "ab"), ("05Noise", "ab"), ("08Haze", "a")):
        for name in names:
            lq, gt = (cv2.imread(f"{folder}/{group}/{side}/{name}.png").astype(float) for side in ("LQ", "GT"))
            values.append(20 * np.log10(255 / np.sqrt(np.mean((lq - gt) ** 2))))
    return np.mean(values)


def test_measuring_tells_quality_use_and_gates(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, _ = estimating()
    MiMDiTPipeline(model).save_pretrained("own")
    generator = np.random.default_rng(0)
    for group in ("05Noise", "08Haze", "00Clean"):
        for side in ("LQ", "GT"):
            (tmp_path / "pairs" / group / side).mkdir(parents=True)
            for name in "ab":
                cv2.imwrite(f"pairs/{group}/{side}/{name}.png", generator.integers(0, 256, (32, 32, 3), np.uint8))
    cli.main(["export", "own", "pruned", "--data", "pairs", "--images", "5", "--experts", "3"])
    said = capsys.readouterr().out
    assert "pairs: " in said and " dB" in said and "kept 3 sub-experts of each group" in said and "% of the choices" in said
    quality = float(re.search(r"group, .*: ([\d.]+) dB, ", said).group(1))
    assert f"| `pairs` | 5 | {mean_psnr('pairs'):.2f} | {quality:.2f} |" in Path("pruned/README.md").read_text()
    again = Restorer.from_pretrained("pruned", backbone=model.backbone)
    assert again.conditioner.config["num_experts"] == 3 and set(again.measured_gates.means) == {"clean", "noise", "haze"}
    again.sampling_settings(steer={"haze": 0})
    with pytest.raises(SystemExit):
        cli.main(["export", "own", "out", "--experts", "3"])
    assert "needs data, such as validation shards" in capsys.readouterr().err
