"""``mimdit quickstart``: from synthetic data to restored photographs in one command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from mimdit.commands.shards import quickstart as write_shards
from mimdit.evaluation.results import RESULTS_NAME, read_results
from mimdit.training.devices import emulates_bfloat16


def quickstart(config: str = "configs/quickstart.yaml", data: str = "data/quickstart", run: str = "runs/quickstart") -> None:
    """Write data, train, test and restore photographs; finished steps are reused.

    Args:
        config: Config of the experiment.
        data: Folder of its shards.
        run: Folder of its results.

    Raises:
        ValueError: The config does not exist.
    """
    if not Path(config).is_file():
        raise ValueError(f"{config} does not exist here; run mimdit quickstart in the root of a clone of the repository")
    results, checkpoint = Path(run) / RESULTS_NAME, Path(run) / "checkpoints" / "last.ckpt"
    places = [f"--data.init_args.{split}={data}/{split}" for split in ("train", "validation", "test")]
    options = ["--config", config, f"--trainer.default_root_dir={run}", *places]
    if emulates_bfloat16() and not torch.cuda.is_available():
        print("this CPU has no bf16 instructions: training in fp32")
        options.append("--trainer.precision=32-true")
    _say(f"1/3  data: {data}")
    write_shards(data)
    _say(f"2/3  training: {run}")
    if _is_newer(results, than=[checkpoint, Path(config)]):
        print("reused: trained and tested with this config before")
    else:
        _mimdit("fit", *options, *(["--ckpt_path", str(checkpoint)] if checkpoint.exists() else []))
        _say("3/3  test on photographs that were never trained on")
        _mimdit("test", *options, "--ckpt_path", str(checkpoint))
    _report(results, Path(run))


def _is_newer(results: Path, than: list[Path]) -> bool:
    """Return true if the results exist and were written after their sources."""
    return all(path.exists() for path in [results, *than]) and results.stat().st_mtime >= max(path.stat().st_mtime for path in than)


def _mimdit(*arguments: str) -> None:
    """Run a Trainer verb in a separate process; if it fails, exit with its code, as it has printed the reason."""
    code = subprocess.run([sys.executable, "-m", "mimdit", *arguments]).returncode
    if code:
        sys.exit(code)


def _say(line: str) -> None:
    print(f"\n== {line}", flush=True)


def _report(results: Path, run: Path) -> None:
    """Print the table and the paths of the results."""
    summaries = read_results(results.parent).summaries
    columns = [(metric, side) for metric in ("psnr_rgb", "ssim_rgb") for side in ("input", "output")]
    for name, summary in summaries.items():
        print(f"\n{name:24s}" + "".join(f"{f'{metric}, {side}':>18s}" for metric, side in columns))
        for row, means in {**summary["groups"], "mean of groups": summary["mean_of_groups"]}.items():
            print(f"{row:24s}" + "".join(f"{means[side][metric]:18.{2 if 'psnr' in metric else 3}f}" for metric, side in columns))
        if summary["left_out"]:
            print(f"in no mean, as their inputs equal their truths: {', '.join(summary['left_out'])}")
    print(f"\npictures     {run / 'restored.png'}\ntable        {results}\nTensorBoard  {run / 'tensorboard'}")
    print(f"look at it:  {Path(sys.executable).parent / 'tensorboard'} --logdir {run}")
