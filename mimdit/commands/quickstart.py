"""``mimdit quickstart``: the whole way from made data to restored photographs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from mimdit.commands.shards import quickstart as write_shards
from mimdit.training.devices import emulates_bfloat16


def quickstart(config: str = "configs/quickstart.yaml", data: str = "data/quickstart", run: str = "runs/quickstart") -> None:
    """Write data, train, test and restore photographs, reusing what is there.

    Args:
        config: The experiment.
        data: Folder of its shards.
        run: Folder of its results.
    """
    if not Path(config).is_file():
        raise ValueError(f"{config} does not exist here; run mimdit quickstart in the root of a clone of the repository")
    results, checkpoint = Path(run) / "results.json", Path(run) / "checkpoints" / "last.ckpt"
    places = [f"--data.init_args.{split}={data}/{split}" for split in ("train", "validation", "test")]
    options = ["--config", config, f"--trainer.default_root_dir={run}", *places]
    if emulates_bfloat16() and not torch.cuda.is_available():
        print("this CPU has no bf16 instructions: training in fp32")
        options.append("--trainer.precision=32-true")
    _say(f"1/3  data: {data}")
    write_shards(data)
    _say(f"2/3  training: {run}")
    if _is_newer(results, than=[checkpoint, Path(config)]):
        print("reused: it was trained and tested with this config before")
    else:
        _mimdit("fit", *options, *(["--ckpt_path", str(checkpoint)] if checkpoint.exists() else []))
        _say("3/3  test on photographs that were never trained on")
        _mimdit("test", *options, "--ckpt_path", str(checkpoint))
    _report(results, Path(run))


def _is_newer(results: Path, than: list[Path]) -> bool:
    """Whether the results exist and were written after everything they came from."""
    return all(path.exists() for path in [results, *than]) and results.stat().st_mtime >= max(path.stat().st_mtime for path in than)


def _mimdit(*arguments: str) -> None:
    """Run a Trainer verb in a process of its own; leave with its exit code where it fails, for it has said why."""
    code = subprocess.run([sys.executable, "-m", "mimdit", *arguments]).returncode
    if code:
        sys.exit(code)


def _say(line: str) -> None:
    print(f"\n== {line}", flush=True)


def _report(results: Path, run: Path) -> None:
    """Print the table and where everything lies."""
    table = json.loads(results.read_text())
    columns = ("psnr_input", "psnr_output", "ssim_input", "ssim_output")
    print(f"\n{'group':24s}" + "".join(f"{column:>13s}" for column in columns))
    rows = {**table["groups"], "average over groups": table["average_over_groups"]}
    for name, row in rows.items():
        print(f"{name:24s}" + "".join(f"{row[column]:13.2f}" if "psnr" in column else f"{row[column]:13.3f}" for column in columns))
    print(f"\npictures     {run / 'restored.png'}\ntable        {results}\nTensorBoard  {run / 'tensorboard'}")
    print(f"look at it:  {Path(sys.executable).parent / 'tensorboard'} --logdir {run}")
