"""Compare two revisions of the code: run the same small program on each and report every value that is not bit-identical.

    python benchmarks/side_by_side.py                     # the last commit before the redesign and the working tree
    python benchmarks/side_by_side.py HEAD~3 HEAD         # any two; "." is the working tree as it stands
    python benchmarks/side_by_side.py --only training stream --json differences.json

Each revision is unpacked into a temporary folder and measured there by a process of its own, with one thread, without an accelerator and
with fixed seeds; both run at the same time. The measured parts:

- ``restored``: a photograph restored by the embedded weights, whole, in pieces, with other settings, by the pipeline; its gates.
- ``training``: losses and the gradient of every weight of steps of the restorer and of the backbone, without a Trainer; routing losses.
- ``degradations``: every group on a photograph.
- ``stream``: shards written from pairs, byte for byte, and the first batches read from them with and without worker processes.
- ``fit``: the checkpoint of a short run of the command line: weights, moving average, optimizer state, position in the data.

The program uses only public classes (``mimdit.Restorer``, ``datamodules.RestorationDataModule``, …) and verbs of the command line, so it
runs before and after code moves. The exit code is 0 if all values are equal, else 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BEFORE = "9d3506f749499b5e7f83273e61e385aa39c91e2c"
"""The last commit before the redesign."""
WORKING_TREE = "."
ROOT = Path(__file__).resolve().parents[1]
VALUES = "values.npz"
SHOWN = 25
"""Differences that are printed; the JSON file has all."""

Values = dict[str, np.ndarray]


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", nargs="?", default=BEFORE, help="a git revision, or . for the working tree")
    parser.add_argument("after", nargs="?", default=WORKING_TREE, help="the same")
    parser.add_argument("--only", nargs="+", choices=[*PARTS], default=[*PARTS], metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, help="also write what differs, and the SHA-256 of all values, here")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # a process that measures; the folder that it works in
    return parser.parse_args()


def unpack(revision: str, folder: Path) -> Path:
    """Unpack a revision into ``folder`` and return the folder of its code: for the working tree, the repository itself."""
    if revision == WORKING_TREE:
        return ROOT
    folder.mkdir()
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", revision], capture_output=True)
    if archive.returncode:
        raise SystemExit(f"error: {revision} is no revision of {ROOT}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def start(code: Path, work: Path, parts: list[str]) -> subprocess.Popen:
    """Start a process that measures the code in ``code`` and writes the values to ``work``."""
    work.mkdir()
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    hidden = {"CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(code)}
    # -P keeps this file's folder, which belongs to the working tree, off the path.
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--measure", str(work), "--only", *parts]
    with (work / "log.txt").open("w") as log:
        return subprocess.Popen(command, cwd=work, env=os.environ | single | hidden, stdout=log, stderr=log)


def measured(revision: str, process: subprocess.Popen, work: Path) -> Values:
    """Wait for a process to end and return the values that it measured."""
    if process.wait():
        raise SystemExit(f"error: {revision} could not be measured:\n" + "".join((work / "log.txt").read_text()[-4000:]))
    with np.load(work / VALUES) as stored:
        return {name: stored[name] for name in stored.files}


def compare(before: Values, after: Values) -> dict[str, dict[str, Any]]:
    """Return the differences by name: ``reason`` and, for numbers of one shape and type, ``absolute`` and ``relative``.

    ``absolute`` is the largest difference of two elements, ``relative`` the same divided by the largest magnitude before.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            found[name] = {"reason": "only after" if old is None else "only before"}
        elif (old.shape, old.dtype) != (new.shape, new.dtype):
            found[name] = {"reason": f"{old.dtype}{list(old.shape)} became {new.dtype}{list(new.shape)}"}
        elif old.tobytes() != new.tobytes():
            found[name] = {"reason": "other values"}
            if old.dtype.kind in "fiub" and old.size:
                absolute = float(np.abs(new.astype(np.float64) - old.astype(np.float64)).max())
                largest = float(np.abs(old.astype(np.float64)).max())
                found[name] |= {"absolute": absolute, "relative": absolute / largest if largest else float("inf")}
    return found


def main() -> None:
    """Compare both revisions, or with ``--measure`` measure one of them in this process."""
    options = arguments()
    if options.measure is not None:
        measure(options.measure, options.only)
        return
    revisions = {"before": options.before, "after": options.after}
    with tempfile.TemporaryDirectory(prefix="side_by_side-") as folder:
        code = {side: unpack(revision, Path(folder, side)) for side, revision in revisions.items()}
        running = {side: start(code[side], Path(folder, f"{side}-work"), options.only) for side in revisions}
        try:
            values = {side: measured(revisions[side], process, Path(folder, f"{side}-work")) for side, process in running.items()}
        finally:
            for process in running.values():
                process.kill()
                process.wait()
    differences = compare(values["before"], values["after"])
    if options.json is not None:
        digests = {side: {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in values[side].items()} for side in values}
        content = revisions | {"equal": not differences, "differences": differences, "sha256": digests}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{options.before} and {options.after}: {len(values['before'])} values, {len(differences)} differ")
    for name, difference in [*differences.items()][:SHOWN]:
        size = f": {difference['absolute']:.3g} ({difference['relative']:.3g} of the largest)" if "absolute" in difference else ""
        print(f"  {name}: {difference['reason']}{size}")
    if len(differences) > SHOWN:
        print(f"  and {len(differences) - SHOWN} more")
    sys.exit(1 if differences else 0)


def measure(work: Path, parts: list[str]) -> None:
    """Measure the code that is imported here and write the values."""
    import cv2
    import torch

    import mimdit

    assert Path(mimdit.__file__).is_relative_to(os.environ["PYTHONPATH"]), f"{mimdit.__file__} is another revision's"
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    values: Values = {}
    for part in parts:
        torch.manual_seed(0)
        for name, value in PARTS[part](work).items():
            value = value.detach().cpu().contiguous().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
            values[f"{part}: {name}"] = value
    np.savez(work / VALUES, **values)


def photograph(height: int = 160, width: int = 216) -> Any:
    """Return a low-light, noisy photograph, a tensor ``[1, 3, height, width]`` in 0..1."""
    return degraded("16Lowlight_Noise", height, width)[None]


def degraded(group: str, height: int = 96, width: int = 96, severity: float = 0.6) -> Any:
    """Return a photograph ``[3, height, width]`` with the degradations of ``group``."""
    from datamodules.degradations import degrade

    return degrade(clean(height, width), group, severity=severity, seed=3)


def clean(height: int = 96, width: int = 96) -> Any:
    """Return the photograph itself, ``[3, height, width]``."""
    import skimage.data
    import torch

    pixels = skimage.data.chelsea()[40 : 40 + height, 90 : 90 + width].copy()
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255


def restored(work: Path) -> dict[str, Any]:
    """Restore with the embedded weights."""
    import torch

    from mimdit import MiMDiTPipeline, Restorer

    restorer, image = Restorer.from_pretrained(), photograph()
    settings: dict[str, dict[str, Any]] = {
        "whole, its own steps": {},
        "whole, 0 steps": {"steps": 0},
        "whole, 2 steps": {"steps": 2},
        "in pieces, 2 steps": {"steps": 2, "tile": 96},
        "in pieces, 0 steps": {"steps": 0, "tile": 64},
        "from noise": {"steps": 2, "start": "noise", "seed": 4},
        "from the degraded": {"steps": 1, "start": "degraded", "sigma_start": 0.4, "color": "adain"},
        "color": {"steps": 1, "color": "wavelet"},
        "steered": {"steps": 1, "steer": {"haze": 0.0, "channel": 2.0}},
        "steered in pieces": {"steps": 1, "tile": 96, "steer": {"noise": 2.0}},
        "without residuals": {"steps": 1, "use_residuals": False},
    }
    found: dict[str, Any] = {name: restorer.restore(image, **chosen) for name, chosen in settings.items()}
    with torch.inference_mode():
        outputs = restorer.validation_step({"lq": image[..., :64, :96].repeat(2, 1, 1, 1)}, 0)
    found["two images"] = outputs["restored"]
    found["groups' gates"], found["experts' gates"] = outputs["routing"].inter.weights, outputs["routing"].intra.weights
    pixels = np.round(image[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    found["pipeline"] = MiMDiTPipeline(restorer)(pixels, 2, output_type="np").images[0]
    return found


def batch() -> dict[str, Any]:
    """Return three pairs of the photograph, the first of them undegraded."""
    import torch

    groups = ["00Clean", "18Lowlight_Blur_Noise", "08Haze"]
    hot = torch.zeros(3, 7)
    hot[1, [0, 1, 6]] = 1
    hot[2, 3] = 1
    lq = torch.stack([clean(), degraded(groups[1]), degraded(groups[2], severity=0.9)])
    keys = [f"{group}/0" for group in groups]
    return {"lq": lq, "gt": clean()[None].repeat(3, 1, 1, 1), "degradation": hot, "group": groups, "key": keys, "draw": keys}


PIXART = {
    "_class_name": "PixArtTransformer2DModel", "sample_size": 64, "patch_size": 4, "in_channels": 3, "out_channels": 6, "num_layers": 2,
    "attention_head_dim": 8, "num_attention_heads": 2, "cross_attention_dim": 16, "caption_channels": 8,
}  # fmt: skip
"""Configuration of a small transformer of the PixArt family."""


def training(work: Path) -> dict[str, Any]:
    """Take steps of the restorer and of the backbone, and the routing losses by themselves."""
    import torch

    from mimdit import DiTBackbone, Restorer, RoutingBalance
    from mimdit.flow import FlowMatching

    weights = {"balance": 0.5, "z": 0.1, "importance": 1.0, "specialization": 0.5}

    def restorer(trainable: bool, flow: dict[str, Any], **options: Any) -> Restorer:
        conditioner = Restorer.from_pretrained().conditioner.requires_grad_(True).train()
        parts = DiTBackbone("embedded", trainable=trainable), conditioner, RoutingBalance(**weights), FlowMatching(**flow)
        return Restorer(*parts, estimate_weight=1.0, **options)

    torch.manual_seed(1)
    pixart = DiTBackbone(None, architecture=PIXART, prompt_dropout=0.0)
    models = {
        "restorer, all of it": restorer(True, {"source": "estimate", "sigma_start": 0.2, "start": "estimate"}),
        "restorer, frozen backbone": restorer(False, {}, flow_norm="rmse", flow_images=1, estimate_norm="psnr"),
        "backbone": DiTBackbone("embedded"),
        "PixArt": pixart,
    }
    found: dict[str, Any] = {}
    for name, model in models.items():
        if isinstance(model, DiTBackbone):
            model.requires_grad_(True)
        logged: dict[str, Any] = {}
        # There is no Trainer to log to.
        model.log = lambda tag, value, logged=logged, **_: logged.__setitem__(tag, torch.as_tensor(value).detach().clone())
        model.training_step(batch(), 0)["loss"].backward()
        found |= {f"{name}, {tag}": value for tag, value in logged.items()}
        found |= {f"{name}, gradient of {tag}": weight.grad for tag, weight in model.named_parameters() if weight.grad is not None}
    conditioner = models["restorer, all of it"].conditioner
    with torch.no_grad():
        latents = torch.nn.functional.pad(2 * batch()["lq"] - 1, (0, -96 % conditioner.multiple, 0, -96 % conditioner.multiple))
        routing = conditioner(latents).routing
        balance = RoutingBalance(**weights)
        found |= {f"RoutingBalance, {name}": value for name, value in balance(routing, batch()["degradation"]).items()}
    return found


def degradations(work: Path) -> dict[str, Any]:
    """Degrade the photograph by every group, mildly and severely."""
    from datamodules.degradations import GROUPS

    return {f"{group} at {severity}": degraded(group, severity=severity) for group in GROUPS for severity in (0.3, 1.0)}


def write_pairs(folder: Path) -> None:
    """Write ten pairs of noise to each of three groups in ``folder``."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for group in ("01Blur", "05Noise", "09Lowlight_Haze"):
        for side in ("LQ", "GT"):
            (folder / group / side).mkdir(parents=True)
            for number in range(10):
                Image.fromarray(rng.integers(0, 256, (72, 80, 3), np.uint8)).save(folder / group / side / f"{number}.png", format="PNG")


def write_shards(work: Path) -> Path:
    """Write the pairs, once, and return their folder of shards."""
    from mimdit import cli

    if not (work / "shards").exists():
        write_pairs(work / "pairs")
        cli.main(["shards", "foundir", str(work / "pairs"), str(work / "shards"), "--workers", "1"])
    return work / "shards"


def stream(work: Path) -> dict[str, Any]:
    """Read the first batches of a stream."""
    from datamodules import RestorationDataModule

    shards = write_shards(work)
    found: dict[str, Any] = {
        path.name: np.frombuffer(hashlib.sha256(path.read_bytes()).digest(), np.uint8) for path in sorted(shards.glob("*.tar"))
    }
    for workers in (0, 2):
        weights = {"01Blur": 1.0, "05Noise": 3.0, "09Lowlight_Haze": 2.0}
        data = RestorationDataModule(str(shards), batch_size=4, crop=48, crops=2, num_workers=workers, seed=5, weights=weights)
        data.setup("fit")
        batches = iter(data.train_dataloader())
        for number in range(6):
            each = next(batches)
            data.mark_consumed(each)
            name = f"{workers} workers, batch {number}"
            found |= {f"{name}, {part}": each[part] for part in ("lq", "gt", "degradation", "key", "draw", "group")}
        found[f"{workers} workers, state"] = json.dumps(data.state_dict(), sort_keys=True, default=str)
        del batches
    return found


def fit(work: Path) -> dict[str, Any]:
    """Train two optimizer steps of two micro-batches through the command line, and read the checkpoint."""
    import torch

    from mimdit import cli

    small = {"token_dim": 16, "num_layers": 2, "token_patch": 4, "dim": 8, "num_blocks": 1, "estimate": True, "tone_powers": [0.0, 1.0]}
    architecture = {
        "sample_size": 32, "patch_size": 4, "in_channels": 3, "out_channels": 3, "num_layers": 2, "attention_head_dim": 8,
        "num_attention_heads": 2, "joint_attention_dim": 8, "caption_projection_dim": 16, "pooled_projection_dim": 8,
        "pos_embed_max_size": 16,
    }  # fmt: skip
    backbone = {"pretrained": None, "architecture": architecture, "trainable": True}
    flow = {"source": "estimate", "sigma_start": 0.3, "start": "estimate"}
    saver = {"dirpath": "checkpoints", "filename": "end", "every_n_train_steps": 2}
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "logger"), False)
    trainer = {"accelerator": "cpu", "devices": 1, "max_steps": 2, "accumulate_grad_batches": 2, "gradient_clip_val": 1.0}
    checkpoint = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saver}
    content = {
        "seed_everything": 7,
        "trainer": quiet | trainer | {"callbacks": [{"class_path": "callbacks.EMAUpdate"}, checkpoint]},
        "model": {
            "class_path": "mimdit.Restorer",
            "init_args": {
                "backbone": {"class_path": "mimdit.DiTBackbone", "init_args": backbone},
                "conditioner": {"class_path": "mimdit.MoEConditioner", "init_args": small},
                "balance": {"class_path": "mimdit.RoutingBalance", "init_args": {"specialization": 0.1}},
                "flow": {"class_path": "mimdit.flow.FlowMatching", "init_args": flow},
                "estimate_weight": 1.0,
                "ema_decay": 0.5,
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-2, "weight_decay": 0.1}},
            },
        },
        "data": {
            "class_path": "datamodules.RestorationDataModule",
            "init_args": {"train": str(write_shards(work)), "batch_size": 2, "crop": 32, "num_workers": 1},
        },
    }
    (work / "fit.yaml").write_text(json.dumps(content))  # JSON is YAML
    sys.argv = ["mimdit"]
    cli.main(["fit", "--config", str(work / "fit.yaml")])
    held = torch.load(work / "checkpoints" / "end.ckpt", weights_only=False)
    found: dict[str, Any] = dict(held["state_dict"])
    for number, state in held["optimizer_states"][0]["state"].items():
        found |= {f"optimizer's {name} of {number}": value for name, value in state.items()}
    for key, state in held.items():
        if re.search("DataModule", key):
            found["position in the data"] = json.dumps(state, sort_keys=True, default=str)
    return found


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "restored": restored,
    "training": training,
    "degradations": degradations,
    "stream": stream,
    "fit": fit,
}


if __name__ == "__main__":
    main()
