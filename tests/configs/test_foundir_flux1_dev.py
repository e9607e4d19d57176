"""configs/foundir_flux1_dev.yaml: the commands of its header but the test, on small look-alikes of FoundIR and of the pipeline."""

from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextModel

from datamodules.foundir import ISOLATED
from mimdit import cli
from mimdit.commands.trainer import run
from tests.commands.test_prompts import WIDTH, clip_encoder, clip_tokenizer, t5_parts
from tests.configs.test_foundir_sd35_medium import commands
from tests.datamodules.made_sources import made_pairs, write_group_folders
from tests.tiny_checkpoints import VAE
from tests.tiny_models import FLUX, randomize

CONFIGS = Path(__file__).parents[2] / "configs"
HUB_ID, CROP = "black-forest-labs/FLUX.1-dev", 128


def write_pipeline(folder: Path) -> str:
    """A pipeline as the hub has it, with 3 double and 2 single blocks of 16 instead of 19 and 38 of 3072."""
    sizes = {name: value for name, value in FLUX.items() if name != "_class_name"}
    transformer = FluxTransformer2DModel(**sizes | {"in_channels": 64, "num_layers": 3, "joint_attention_dim": WIDTH})
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(**VAE | blocks | {"block_out_channels": (4, 4, 4, 4), "latent_channels": 16, "sample_size": 128})
    clip = CLIPTextModel(clip_encoder(8, 6, 1).config).eval()
    tokenizer, t5 = t5_parts()
    for part, model in {"transformer": transformer, "vae": vae, "text_encoder": clip}.items():
        randomize(model, 0, scale=0.1)
        model.save_pretrained(folder / part)
    t5.save_pretrained(folder / "text_encoder_2")
    clip_tokenizer("<|endoftext|>").save_pretrained(folder / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer_2")
    return str(folder)


def overlay(pipeline: str, folder: Path) -> str:
    """Paths, widths and lengths of the look-alike; all else is the config's."""
    callbacks = yaml.safe_load((CONFIGS / "callbacks/cluster.yaml").read_text())["trainer"]["callbacks"]
    for callback in callbacks:
        if callback["class_path"] == "callbacks.CompleteCheckpoint":
            callback["init_args"]["every_n_train_steps"] = 2
        if callback["class_path"] in ("callbacks.Throughput", "callbacks.MFU", "callbacks.Memory"):
            callback["init_args"] = {"every_n_steps": 1}
    content = {
        "trainer": {
            "callbacks": callbacks, "max_steps": 2, "val_check_interval": 2, "limit_val_batches": 1, "log_every_n_steps": 1,
            "accelerator": "cpu", "devices": 1, "strategy": "auto", "enable_progress_bar": False,
        },
        "model": {"init_args": {
            "backbone": {"init_args": {"pretrained": pipeline, "codec": {"init_args": {"pretrained": pipeline}}}},
            "conditioner": {"init_args": {"token_dim": 16, "num_layers": 4, "num_blocks": 2, "dim": 16, "hidden": 8}},
            "flow": {"init_args": {"steps": 2}}, "tile": 12, "overlap": 4,
            "scheduler": {"init_args": {"warmup_steps": 1}}, "optimizer": {"init_args": {"lr": 1e-3}}, "ema_decay": 0.5,
        }},
        "data": {"init_args": {"batch_size": 2, "crop": CROP, "num_workers": 1}},
    }  # fmt: skip
    (folder / "small.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "small.yaml")


def test_the_commands_of_its_header_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(CONFIGS)
    pipeline = write_pipeline(tmp_path / "pipeline")
    released = write_group_folders(tmp_path / "released", made_pairs(ISOLATED, count=2, side=144))
    write_group_folders(tmp_path / "data" / "foundir-test", made_pairs(("01Blur", "08Haze"), count=1, side=112))
    replaced = {"/data/FoundIR/Train": str(released), HUB_ID: pipeline, "--crop=512": f"--crop={CROP}"}
    *tools, fit, _test = commands(CONFIGS / "foundir_flux1_dev.yaml")
    for command in tools:
        for old, new in replaced.items():
            command = [word.replace(old, new) for word in command]
        cli.main(command)
    done = run([*fit, "--config", overlay(pipeline, tmp_path)])

    assert done.trainer.global_step == 2 and done.model.backbone.prompts(1)[0].shape[1] == 512
    assert done.model.backbone.embedded_guidance == 3.5 and done.model.backbone.transformer.gradient_checkpointing
    for name in ("train/loss/flow", "val/psnr_output", "val/psnr_input"):
        assert torch.isfinite(done.trainer.callback_metrics[name]), name
    saved = torch.load(tmp_path / "runs/foundir_flux1_dev/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 2 and not [name for name in saved["state_dict"] if name.startswith("backbone.")]
    assert saved["frozen"]["transformer"]["sha256"] and done.model.conditioner.state_dict()["projections.0.linear.weight"].abs().max() > 0
