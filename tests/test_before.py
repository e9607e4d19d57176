"""Files of users, written by the code of the commit that tests/data/before/README.md names, still load and mean the same."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skimage.data
import torch
import yaml
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from datamodules import RestorationDataModule
from datamodules.degradations import GROUPS, degrade
from mimdit import DiTBackbone, MiMDiTPipeline, MoEConditioner, Restorer, RoutingBalance, cli
from mimdit.flow import FlowMatching

BEFORE = Path(__file__).parent / "data/before"
CONFIGS = BEFORE / "configs"
LAST = {
    "run": "run/checkpoints/step=0000003.ckpt",
    "adapters": "adapters/checkpoints/step=0000002.ckpt",
    "pretrain": "pretrain/checkpoints/step=0000001.ckpt",
    "sharded": "sharded/checkpoints/step=0000002.ckpt",
}
"""The checkpoint of each run; the last is a folder that two ranks wrote."""
RESUMED = {
    "run": ["--config", "run/config.yaml"],
    "adapters": ["--config", "experiment.yaml", "--config", "adapters.yaml", "--trainer.max_steps=3"],
    "pretrain": ["--config", "experiment.yaml", "--config", "pretrain.yaml", "--trainer.max_steps=2"],
    "sharded": [
        *("--config", "experiment.yaml", "--config", "sharded.yaml", "--trainer.max_steps=3"),
        *("--trainer.strategy=auto", "--trainer.devices=1"),
    ],
}
"""Options that go on from them in one process; the first is what the run itself saved as its config."""
TOLERANCE = 1e-4
"""Relative: to a number, or to the largest of a tensor's."""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A copy of the folder, in which the test works."""
    return unpack(tmp_path / "before", monkeypatch.chdir)


@pytest.fixture(autouse=True)
def own_name(monkeypatch):
    """Run under the program's own name."""
    monkeypatch.setattr(sys, "argv", ["mimdit"])


def unpack(folder: Path, go: Callable[[Path], object]) -> Path:
    """Copy everything to ``folder``, unpack the archives there, and make it the working folder."""
    shutil.copytree(BEFORE, folder, ignore=shutil.ignore_patterns("write.py", "__pycache__"))
    for packed in folder.glob("*.tar.xz"):
        with tarfile.open(packed) as archive:
            archive.extractall(folder, filter="data")
    go(folder)
    return folder


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=TOLERANCE * expected.abs().max().item())


def outputs() -> dict[str, torch.Tensor]:
    """The stored image, and what was made of it."""
    return load_file(BEFORE / "outputs.safetensors")


RESTORED = {
    "restorer": {},
    "restorer steps=0": {"steps": 0},
    "restorer start=noise": {"steps": 3, "start": "noise"},
    "restorer tile=16": {"tile": 16},
    "restorer color=wavelet": {"color": "wavelet"},
    "restorer steer=channel=2,haze=0": {"steer": {"channel": 2.0, "haze": 0.0}},
    "int8": {},
    "adapters": {},
    "complete": {},
}
"""Settings of each stored result; its first word is the folder in ``exported/``."""


@pytest.mark.parametrize("name", RESTORED)
def test_an_exported_folder_restores_the_same_pixels(place, name):
    folder = f"exported/{name.split()[0]}"
    backbone = None if name == "complete" else DiTBackbone("backbone")
    restored = Restorer.from_pretrained(folder, backbone=backbone).restore(outputs()["image"], **RESTORED[name])
    assert_near(restored, outputs()[name])


def test_a_complete_folder_is_still_a_pipeline_of_ours_and_of_diffusers(place, monkeypatch):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(place / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    ours = MiMDiTPipeline.from_pretrained("exported/complete")
    theirs = DiffusionPipeline.from_pretrained(place / "exported/complete", trust_remote_code=True)
    for pipeline in (ours, theirs):
        assert_near(pipeline.restorer.restore(outputs()["image"]), outputs()["complete"])


def test_the_folders_of_backbone_and_conditioner_give_the_same_velocity_residuals_and_estimate(place):
    expected = outputs()
    with torch.no_grad():
        conditioning = MoEConditioner.from_pretrained("conditioner").eval()(expected["latent"])
        velocity = DiTBackbone("backbone").velocity(expected["latent"], torch.tensor([0.3]), conditioning.residuals)
    assert_near(conditioning.residuals[0], expected["residual"])
    assert_near(conditioning.estimate, expected["estimate"])
    assert_near(velocity, expected["velocity"])


@pytest.mark.parametrize("run", ["run", "adapters"])
def test_a_checkpoint_is_exported_to_the_very_weights_of_then(place, run):
    then = Path("exported") / {"run": "restorer"}.get(run, run)
    cli.main(["export", LAST[run], "again"])
    for path in then.rglob("*.safetensors"):
        expected, found = load_file(path), load_file(Path("again") / path.relative_to(then))
        assert expected.keys() == found.keys() and all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_checkpoint_of_a_backbone_is_exported_to_its_weights(place):
    cli.main(["export", LAST["pretrain"], "again", "--dtype", "float32"])
    found = load_file("again/diffusion_pytorch_model.safetensors")
    saved = torch.load(LAST["pretrain"], weights_only=True)["state_dict"]
    assert found and all(torch.equal(tensor, saved[f"transformer.{name}"]) for name, tensor in found.items())


def test_a_sharded_checkpoint_becomes_one_file_with_the_sums_of_then(place):
    cli.main(["checkpoint", "consolidate", LAST["sharded"], "whole.ckpt"])
    assert sums_of("whole.ckpt") == pytest.approx(values()["sharded"], rel=TOLERANCE)


def sums_of(checkpoint: str) -> dict[str, float]:
    """Sums of the magnitudes of the weights, of the average and of the optimizer's moments of a checkpoint, and their numbers."""
    held = torch.load(checkpoint, weights_only=True)
    weights = {name: tensor.double().abs().sum().item() for name, tensor in held["state_dict"].items()}
    moments = [state[name].double().abs().sum().item() for state in held["optimizer_states"][0]["state"].values() for name in ("exp_avg",)]
    average = [value for name, value in weights.items() if name.startswith("ema.")]
    return {
        "weights": math.fsum(weights.values()) - math.fsum(average),
        "average": math.fsum(average),
        "moments": math.fsum(moments),
        "number of weights": len(weights),
        "number of moments": len(moments),
    }


@pytest.mark.parametrize("run", RESUMED)
def test_a_checkpoint_goes_on_with_the_losses_of_then(place, run):
    found = resume(run)
    assert found == pytest.approx(values()["resumed"][run], rel=TOLERANCE)
    if run == "run":  # it was never stopped, and went the same way
        then = losses(BEFORE / "run/metrics.csv")
        assert found == pytest.approx({step: then[step] for step in ("3", "4")}, rel=TOLERANCE)


def resume(run: str) -> dict[str, float]:
    """Go on from the last checkpoint of ``run``, elsewhere; the loss of each further step."""
    config = Path("run/config.yaml")  # saved when paths still lost their ${…}: the error for it asks for this edit
    config.write_text(config.read_text().replace("dirpath: run/", "dirpath: ${trainer.default_root_dir}/"))
    cli.main(["fit", *RESUMED[run], "--trainer.default_root_dir=on", "--trainer.logger.init_args.save_dir=on", "--ckpt_path", LAST[run]])
    return losses(Path("on/metrics.csv"))


def losses(path: Path) -> dict[str, float]:
    with path.open() as file:
        return {row["step"]: float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}


def test_results_of_both_callbacks_become_a_report(place):
    cli.main(["report", "quality=results/quality", "scores=results/scores", "--output", "report"])
    text = Path("report/report.md").read_text()
    rows = [json.loads(line) for line in Path("results/scores/results.jsonl").read_text().splitlines()]
    quality = json.loads(Path("results/quality/results.json").read_text())["groups"]
    for group in ("05Noise", "08Haze"):
        mean = math.fsum(row["output"]["psnr"] for row in rows if row["group"] == group) / 2
        assert f"{mean:.2f}" in text and f"{quality[group]['psnr_output']:.2f}" in text


def class_paths(node: object) -> Iterator[str]:
    """Every class that a parsed YAML file names."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if key == "class_path":
            yield value
        yield from class_paths(value)


def printed(capsys, *options: str) -> dict:
    """What ``mimdit … --print_config`` makes of options."""
    with pytest.raises(SystemExit) as end:
        cli.main([*options, "--print_config"])
    shown = capsys.readouterr()
    assert end.value.code in (0, None), shown.err
    return yaml.safe_load(shown.out)


WHOLE = {
    "default": ["fit", *("--config", "configs/default.yaml")],
    "sd35": ["fit", *("--config", "configs/foundir_sd35_medium.yaml", "--config", "configs/slurm.yaml", "--config", "configs/fsdp2.yaml")],
    "evaluate": ["test", *("--config", "configs/default.yaml", "--config", "configs/evaluate.yaml")],
    "saved": ["fit", "--config", "run/config.yaml"],
}
"""Commands that between them name most of the classes."""


@pytest.mark.parametrize("name", WHOLE)
def test_configs_of_then_parse_together(place, capsys, name):
    command = WHOLE[name]
    parsed = printed(capsys, *command)
    said = {path for option in command if option.endswith(".yaml") for path in class_paths(yaml.safe_load(Path(option).read_text()))}
    # Plugins, strategies and callbacks may be given twice: the later file wins, or adds.
    assert parsed["model"]["class_path"] in said and parsed["data"]["class_path"] in said


def test_every_class_of_the_configs_of_then_may_be_named(place, capsys):
    """In one command: all callbacks, all benchmarks, and every other class in its place."""
    text = "\n".join(path.read_text() for path in sorted(CONFIGS.rglob("*.yaml")))
    named = sorted(set(re.findall(r"class_path: ([\w.]+)", text)))
    ours = [name for name in named if name.startswith(("callbacks.", "datamodules.", "mimdit."))]
    benchmarks = [name for name in ours if name.startswith("datamodules.benchmarks.")]
    callbacks = [name for name in ours if name.startswith("callbacks.")]
    assert len(benchmarks) == 10 and len(callbacks) == 15
    content = {
        "trainer": {"callbacks": [{"class_path": name} for name in callbacks]},
        "data": {
            "class_path": "datamodules.BenchmarkDataModule",
            "init_args": {"benchmarks": {name: {"class_path": name, "init_args": {"root": "x"}} for name in benchmarks}},
        },
    }
    Path("all.yaml").write_text(yaml.safe_dump(content))
    parsed = printed(capsys, "test", "--config", "configs/foundir_sd35_medium.yaml", "--config", "all.yaml")
    assert len([*class_paths(parsed["trainer"]["callbacks"])]) == len(callbacks)
    assert len(parsed["data"]["init_args"]["benchmarks"]) == len(benchmarks)


def documented_command(path: Path) -> list[str]:
    """The command in the comments at the head of a config: one that is not whole by itself says there which files go before it."""
    head = "".join(re.findall(r"\A(?:#.*\n)*", path.read_text()))
    found = re.search(r"(?:mimdit|lightning) ((?:fit|validate|test|predict) [^`\n]*" + re.escape(path.name) + r"[^`\n]*)", head)
    command = shlex.split(found[1]) if found else ["fit", "--config", f"configs/{path.relative_to(CONFIGS)}"]
    return [option for index, option in enumerate(command) if "--ckpt_path" not in (option, command[index - 1])]


@pytest.mark.long
@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_config_of_then_parses(place, capsys, path):
    part = yaml.safe_load(path.read_text()).get("class_path")
    command = documented_command(path)
    if part is not None:  # the value of one key
        command = ["fit", "--config", "configs/default.yaml", f"--model.init_args.{path.parent.name}=configs/{path.relative_to(CONFIGS)}"]
    assert printed(capsys, *command)["model"]["class_path"].startswith("mimdit.")


def values() -> dict:
    """Numbers of then."""
    return json.loads((BEFORE / "values.json").read_text())


def photograph() -> torch.Tensor:
    """A real picture of 64 pixels, ``[3, 64, 64]`` in 0..1."""
    return torch.from_numpy(skimage.data.astronaut()[100:164, 180:244].copy()).permute(2, 0, 1).float() / 255


def of_pixels(images: torch.Tensor) -> list[float]:
    """Mean and spread of each channel of ``[..., 3, H, W]``."""
    return [*images.mean(dim=(-2, -1)).flatten().tolist(), *images.std(dim=(-2, -1)).flatten().tolist()]


def measure_embedded() -> dict[str, list[float]]:
    """The embedded weights on a degraded photograph."""
    restorer = Restorer.from_pretrained()
    image = degrade(photograph(), "16Lowlight_Noise", severity=0.6, seed=5)[None]
    settings = {"default": {}, "steps=0": {"steps": 0}, "steer": {"steer": {"haze": 0.0}}, "tile=48": {"tile": 48}}
    return {name: of_pixels(restorer.restore(image, **chosen)) for name, chosen in settings.items()}


def measure_degradations() -> dict[str, list[float]]:
    """Every group's degradation of the photograph."""
    return {group: of_pixels(degrade(photograph(), group, severity=0.7, seed=7)) for group in GROUPS}


def measure_training() -> dict[str, dict[str, float]]:
    """Losses and norms of some gradients of one step of the restorer and of the backbone, without a trainer."""
    data = RestorationDataModule("shards", batch_size=4, crop=16, num_workers=0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    backbone = DiTBackbone("backbone", trainable=True)
    flow = FlowMatching("estimate", sigma_start=0.3, start="estimate", steps=2)
    balance = RoutingBalance(balance=0.5, z=0.1, importance=1.0, specialization=0.5)
    restorer = Restorer(backbone, MoEConditioner.from_pretrained("conditioner"), balance, flow, estimate_weight=1.0, overlap=16)
    alone = DiTBackbone("backbone")
    alone.requires_grad_(True)
    found = {"batch": {"lq": batch["lq"].mean().item(), "gt": batch["gt"].mean().item()}}
    found["batch"] |= {f"key {key}": 1.0 for key in batch["key"]}
    for name, model in (("restorer", restorer), ("backbone", alone)):
        logged: dict[str, float] = {}
        model.log = lambda tag, value, logged=logged, **_: logged.__setitem__(tag, torch.as_tensor(value).detach().item())
        model.training_step(batch, 0)["loss"].backward()
        norms = {tag: weight.grad.norm().item() for tag, weight in model.named_parameters() if weight.grad is not None}
        total = math.fsum(norm**2 for norm in norms.values()) ** 0.5
        picked = {
            f"gradient of {tag}": norm for tag, norm in norms.items() if re.search(r"embed\.weight|router|to_q\.weight|proj_out", tag)
        }
        found[name] = logged | picked | {"gradient": total, "weights with a gradient": len(norms)}
    return found


def test_the_embedded_weights_restore_as_before():
    assert flat(measure_embedded()) == pytest.approx(flat(values()["embedded"]), rel=TOLERANCE)


def test_degradations_are_those_of_before():
    assert flat(measure_degradations()) == pytest.approx(flat(values()["degradations"]), rel=TOLERANCE)


def test_a_step_of_training_has_the_losses_and_gradients_of_before(place):
    assert flat(measure_training()) == pytest.approx(flat(values()["training"]), rel=TOLERANCE, abs=1e-7)


def flat(found: dict) -> dict[str, float]:
    """Nested numbers by the path to them."""
    pairs = {}
    for name, value in found.items():
        if isinstance(value, dict | list):
            inner = value if isinstance(value, dict) else dict(enumerate(value))
            pairs |= {f"{name}: {key}": number for key, number in flat(inner).items()}
        else:
            pairs[name] = value
    return pairs
