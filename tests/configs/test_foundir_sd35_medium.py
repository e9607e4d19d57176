"""configs/foundir_sd35_medium*.yaml: every command of their headers but the test, on small look-alikes of FoundIR and of the pipeline."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, SD3Transformer2DModel

from datamodules.foundir import COMPOSED, ISOLATED, TEST_PAIRS
from datamodules.shards import ShardIndex
from mimdit import cli
from mimdit.commands.trainer import TrainerCLI, run
from tests.commands.test_prompts import CLIP_TOKENS, clip_encoder, clip_tokenizer
from tests.datamodules.made_sources import made_pairs, write_group_folders
from tests.tiny_checkpoints import VAE
from tests.tiny_models import randomize

CONFIGS = Path(__file__).parents[2] / "configs"
MAIN, ALL, ESTIMATE = "foundir_sd35_medium.yaml", "foundir_sd35_medium_all.yaml", "foundir_sd35_medium_estimate.yaml"
COUPLED = sorted(set(TEST_PAIRS) - set(ISOLATED) - set(COMPOSED))
HUB_ID = "stabilityai/stable-diffusion-3.5-medium"
CROP = 128

TRANSFORMER = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 6, "dual_attention_layers": (0, 1, 2),
    "qk_norm": "rms_norm", "attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16, "joint_attention_dim": 24,
    "pooled_projection_dim": 16, "pos_embed_max_size": 96,
}  # fmt: skip
"""SD3.5-medium's architecture (a second attention in the first half of the blocks, normed queries and keys, 16 channels), 6 blocks of 16
instead of 24 of 1536."""


def write_pipeline(folder: Path) -> str:
    """A pipeline as the hub has it, but for T5, which the run does without."""
    transformer = SD3Transformer2DModel(**TRANSFORMER)
    randomize(transformer, 0)
    transformer.save_pretrained(folder / "transformer")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(**VAE | blocks | {"block_out_channels": (4, 4, 4, 4), "latent_channels": 16, "sample_size": 128})
    randomize(vae, 0, scale=0.1)
    vae.save_pretrained(folder / "vae")
    for number, (encoder, padding) in {"": (clip_encoder(8, 6, 1), "<|endoftext|>"), "_2": (clip_encoder(12, 10, 2), "!")}.items():
        encoder.save_pretrained(folder / f"text_encoder{number}")
        clip_tokenizer(padding).save_pretrained(folder / f"tokenizer{number}")
    return str(folder)


def commands(path: Path) -> list[list[str]]:
    """The commands in the comments at the head of a config."""
    head = "".join(re.findall(r"\A(?:#.*\n)*", path.read_text()))
    return [shlex.split(line) for line in re.findall(r"^#   mimdit (.*)$", head, re.MULTILINE)]


def overlay(pipeline: str, folder: Path) -> Path:
    """Paths, widths and lengths of the look-alike; all else is the config's."""
    callbacks = yaml.safe_load((CONFIGS / "callbacks/cluster.yaml").read_text())["trainer"]["callbacks"]
    for callback in callbacks:
        if callback["class_path"] == "callbacks.CompleteCheckpoint":
            callback["init_args"]["every_n_train_steps"] = 2
        if callback["class_path"] in ("callbacks.Throughput", "callbacks.MFU", "callbacks.Memory"):
            callback["init_args"] = {"every_n_steps": 1}
    backbone = {"compile": False, "pretrained": pipeline, "codec": {"init_args": {"pretrained": pipeline}}}
    conditioner = {"compile": False, "token_dim": 16, "num_layers": 6, "num_blocks": 3, "dim": 16, "hidden": 8}
    content = {
        "trainer": {
            "callbacks": callbacks, "max_steps": 2, "val_check_interval": 2, "limit_val_batches": 1, "log_every_n_steps": 1,
            "accelerator": "cpu", "devices": 1, "strategy": "auto", "enable_progress_bar": False,
        },
        "model": {"init_args": {
            "backbone": {"init_args": backbone}, "conditioner": {"init_args": conditioner},
            "flow": {"init_args": {"steps": 2}}, "tile": 12, "overlap": 4,
            "scheduler": {"init_args": {"warmup_steps": 1}}, "optimizer": {"init_args": {"lr": 1e-3}}, "ema_decay": 0.5,
        }},
        "data": {"init_args": {"batch_size": 2, "crop": CROP, "num_workers": 1}},
    }  # fmt: skip
    (folder / "small.yaml").write_text(yaml.safe_dump(content))
    return folder / "small.yaml"


class Place:
    """A working folder with the configs, the look-alikes, and what was written so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "configs").symlink_to(CONFIGS)
        pipeline = write_pipeline(folder / "pipeline")
        released = write_group_folders(folder / "released", made_pairs((*ISOLATED, *COUPLED), count=2, side=144))
        write_group_folders(folder / "data" / "foundir-test", made_pairs(("01Blur", "08Haze"), count=1, side=112))
        self.replaced = {"/data/FoundIR/Train": str(released), HUB_ID: pipeline, "--crop=512": f"--crop={CROP}"}
        self.small = overlay(pipeline, folder)

    def tools(self, config: str) -> None:
        """Run what the header says comes before the training."""
        for command in self._commands(config):
            if command[0] in ("shards", "prompts"):
                cli.main(command)

    def fit(self, config: str, *options: str) -> TrainerCLI:
        """Train as the header says, small."""
        (command,) = [command for command in self._commands(config) if command[0] == "fit"]
        return run([*command, "--config", str(self.small), *options])

    def _commands(self, config: str) -> list[list[str]]:
        return [[self._small(word) for word in command] for command in commands(CONFIGS / config)]

    def _small(self, word: str) -> str:
        for old, new in self.replaced.items():
            word = word.replace(old, new)
        return word

    def index(self, name: str) -> ShardIndex:
        return ShardIndex.load(self.folder / "data" / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made = Place(folder)
        made.tools(MAIN)
        yield made


def test_the_commands_before_it_write_what_it_reads(place):
    images, latents = place.index("foundir"), place.index("latents")
    assert sorted(images.groups) == sorted(latents.groups) == sorted(ISOLATED)
    assert (images.samples, latents.samples) == (14, 4 * 14)
    assert latents.options["latents"]["crop"] == CROP and (place.folder / "data/prompts/sd35_medium.safetensors").is_file()


def test_it_trains_validates_saves_resumes_and_goes_on_with_all_groups(place):
    first = place.fit(MAIN)
    assert first.trainer.global_step == 2 and first.model.backbone.prompts(1)[0].shape[1] == CLIP_TOKENS
    for name in ("train/loss/flow", "train/loss/importance", "val/psnr_output", "val/psnr_input"):
        assert torch.isfinite(first.trainer.callback_metrics[name]), name
    checkpoint = place.folder / "runs/foundir_sd35_medium/checkpoints/last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["global_step"] == 2 and not [name for name in saved["state_dict"] if name.startswith("backbone.")]
    assert saved["frozen"]["codec"] == place.index("latents").options["latents"]["codec"]

    second = place.fit(MAIN, "--ckpt_path", str(checkpoint), "--trainer.max_steps=4")
    assert second.trainer.global_step == 4 and torch.load(checkpoint, weights_only=True)["global_step"] == 4
    projections = [each.model.conditioner.state_dict()["projections.0.linear.weight"] for each in (first, second)]
    assert projections[0].abs().max() > 0 and not torch.equal(*projections)

    place.tools(ALL)
    third = place.fit(ALL, "--trainer.max_steps=5", "--trainer.limit_val_batches=0")
    assert third.trainer.global_step == 5
    assert sorted(third.datamodule._quotas()) == sorted([*ISOLATED, *COUPLED, *COMPOSED])


def test_the_estimate_trains_too(place):
    done = place.fit(ESTIMATE, "--trainer.max_steps=2", "--trainer.limit_val_batches=0")
    assert done.model.flow.start == "estimate" and done.model.flow.logit_mean == 0
    assert torch.isfinite(done.trainer.callback_metrics["train/loss/estimate"])


@pytest.mark.long
def test_it_trains_compiled(place):
    """As the config says; the other tests run without, which is faster here."""
    compiled = [f"--model.init_args.{part}.init_args.compile=true" for part in ("backbone", "conditioner")]
    folder = "--trainer.default_root_dir=runs/compiled"
    done = place.fit(MAIN, *compiled, folder, "--trainer.max_steps=2", "--trainer.limit_val_batches=0")
    weights = done.model.conditioner.state_dict()
    assert weights["projections.0.linear.weight"].abs().max() > 0, "the steps were skipped"
    assert all(weight.isfinite().all() for weight in weights.values())
