"""Write the artifacts of this folder. It ran once, at the commit that README.md names, and stays as the record of how they were made.

python -m tests.data.before.write FOLDER        # from the root of a checkout of that commit, into an empty folder
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch
from safetensors.torch import save_file

from datamodules.degradations import degrade
from mimdit import DiTBackbone, MiMDiTPipeline, MoEConditioner, Restorer, cli
from tests import test_before
from tests.datamodules.made_shards import make_folder
from tests.tiny_models import randomise, tiny_backbone

HERE = Path(__file__).parent
RUN = ["--config", "experiment.yaml"]
GROUPS = ("00Clean", "05Noise", "08Haze")
ARCHITECTURE = {
    "sample_size": 32, "patch_size": 4, "in_channels": 3, "out_channels": 3, "num_layers": 2, "attention_head_dim": 8,
    "num_attention_heads": 1, "joint_attention_dim": 4, "caption_projection_dim": 8, "pooled_projection_dim": 4, "pos_embed_max_size": 8,
}  # fmt: skip


def photograph(size: int, top: int = 0) -> np.ndarray:
    """A small picture, float32 ``[size, size, 3]`` in 0..1."""
    crop = skimage.data.astronaut()[top : top + 320, 60:380]
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def write_pairs() -> None:
    """Write ``pairs/<group>/{LQ,GT}/<name>.png``; those of the first group need nothing."""
    for group in GROUPS:
        for name, top in (("a", 0), ("b", 150)):
            clean = photograph(32, top)
            sides = {"GT": clean, "LQ": clean if group == "00Clean" else degrade(clean, group, severity=0.5, seed=top)}
            for side, image in sides.items():
                path = Path("pairs", group, side, f"{name}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), np.round(image[..., ::-1] * 255).astype(np.uint8))


def write_start() -> None:
    """Write the backbone and the conditioner that the runs start from, of random weights none of which is zero."""
    tiny_backbone(architecture=ARCHITECTURE).save_pretrained("backbone", dtype=torch.float32)
    init = {"token_dim": 8, "num_layers": 2, "token_patch": 4, "dim": 8, "hidden": 2, "num_blocks": 1, "num_experts": 3}
    conditioner = MoEConditioner(**init, estimate=True, tone_powers=[0.0, 1.0])
    randomise(conditioner, 0, scale=0.15)
    conditioner.save_pretrained("conditioner")


def fit(*options: str) -> None:
    """Fit in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "mimdit", "fit", *options], env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"mimdit fit {' '.join(options)} ended with {done.returncode}")


def write_runs() -> None:
    """Train the four runs and keep one checkpoint of each."""
    fit(*RUN)
    fit(*RUN, "--config", "adapters.yaml")
    fit(*RUN, "--config", "pretrain.yaml")
    fit(*RUN, "--config", "sharded.yaml")
    for run, step in (("run", 3), ("adapters", 2), ("pretrain", 1), ("sharded", 2)):
        kept = Path(run, "checkpoints", f"step={step:07d}.ckpt")
        for path in kept.parent.iterdir():
            if path.name != kept.name:
                path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
    for run in ("adapters", "sharded"):  # many small tensors, which an archive makes small
        with tarfile.open(f"{run}.tar.xz", "w:xz") as archive:
            archive.add(f"{run}/checkpoints", filter=_nobody)


def _nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def write_exports() -> None:
    """Write every kind of folder that ``mimdit export`` makes."""
    checkpoint = "run/checkpoints/step=0000003.ckpt"
    cli.main(["export", checkpoint, "exported/restorer", "--data", "pairs"])
    cli.main(["export", checkpoint, "exported/complete", "--complete", "--dtype", "float32", "--data", "pairs"])
    cli.main(["export", checkpoint, "exported/int8", "--int8"])
    cli.main(["export", "adapters/checkpoints/step=0000002.ckpt", "exported/adapters"])


def write_results() -> None:
    """Write the results of the callbacks Quality and Scores."""
    checkpoint = ["--ckpt_path", "run/checkpoints/step=0000003.ckpt"]
    quality = '[{"class_path": "callbacks.EMAUpdate"}, {"class_path": "callbacks.Quality"}]'
    shared = [*RUN, "--trainer.logger=false"]
    cli.main(["test", *shared, f"--trainer.callbacks={quality}", "--trainer.default_root_dir=results/quality", *checkpoint])
    cli.main(["test", *shared, "--config", "evaluate.yaml", "--trainer.default_root_dir=results/scores", *checkpoint])


def write_outputs() -> None:
    """Write an image and what every artifact makes of it."""
    image = torch.from_numpy(degrade(photograph(40, 60), "18Lowlight_Blur_Noise", severity=0.6, seed=1))
    image = image[:24].permute(2, 0, 1)[None].contiguous()  # no multiple of anything, and wider than the positions of the backbone reach
    frozen = DiTBackbone("backbone")
    plain = Restorer.from_pretrained("exported/restorer", backbone=frozen)
    restored = {
        "restorer": plain.restore(image),
        "restorer steps=0": plain.restore(image, steps=0),
        "restorer start=noise": plain.restore(image, steps=3, start="noise"),
        "restorer tile=16": plain.restore(image, tile=16),
        "restorer color=wavelet": plain.restore(image, color="wavelet"),
        "restorer steer=channel=2,haze=0": plain.restore(image, steer={"channel": 2.0, "haze": 0.0}),
        "int8": Restorer.from_pretrained("exported/int8", backbone=frozen).restore(image),
        "complete": MiMDiTPipeline.from_pretrained("exported/complete").restorer.restore(image),
        "adapters": Restorer.from_pretrained("exported/adapters", backbone=DiTBackbone("backbone")).restore(image),
    }
    padded = 2 * image[..., :16, :32].contiguous() - 1
    with torch.no_grad():
        conditioning = MoEConditioner.from_pretrained("conditioner").eval()(padded)
        velocity = frozen.velocity(padded, torch.tensor([0.3]), conditioning.residuals)
    told = {"latent": padded, "residual": conditioning.residuals[0], "estimate": conditioning.estimate, "velocity": velocity}
    save_file({name: tensor.contiguous() for name, tensor in ({"image": image} | restored | told).items()}, "outputs.safetensors")


def write_values() -> None:
    """Write the numbers that tests/test_before.py compares."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as copy:  # what goes on saves, too, in the folder that it went on from
        shutil.copytree(here, copy, dirs_exist_ok=True)
        os.chdir(copy)
        resumed = {run: test_before.resume(run) for run in test_before.RESUMED}
        os.chdir(here)
    cli.main(["checkpoint", "consolidate", test_before.LAST["sharded"], "on/whole.ckpt"])
    values = {
        "embedded": test_before.measure_embedded(),
        "degradations": test_before.measure_degradations(),
        "training": test_before.measure_training(),
        "resumed": resumed,
        "sharded": test_before.sums_of("on/whole.ckpt"),
    }
    Path("values.json").write_text(json.dumps(values, indent=1) + "\n")


def tidy() -> None:
    """Remove what no test reads, and the home folder of whoever ran this from the texts."""
    for name in ("on", "adapters", "sharded"):
        shutil.rmtree(name)
    for path in {*Path().glob("*/checkpoints/*")} - {Path(path) for path in test_before.LAST.values()}:
        path.unlink()
    for path in [*Path().glob("results/*/config.yaml"), Path("pretrain/config.yaml"), Path("pretrain/metrics.csv")]:
        path.unlink()
    told = Path("results/scores/results.json")
    told.write_text(told.read_text().replace(str(Path.home()), "~"))


def main(folder: str) -> None:
    """Write everything into ``folder``."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for path in HERE.glob("*.yaml"):
        shutil.copy(path, folder)
    os.chdir(folder)
    torch.set_num_threads(1)
    make_folder(Path("shards"), {"00Clean": [2], "05Noise": [3], "08Haze": [3]})
    write_pairs()
    write_start()
    write_runs()
    write_exports()
    write_results()
    write_outputs()
    write_values()
    tidy()
    files = {str(path): path.stat().st_size for path in Path().rglob("*") if path.is_file()}
    print(json.dumps(files, indent=1), sum(files.values()))


if __name__ == "__main__":
    main(sys.argv[1])
