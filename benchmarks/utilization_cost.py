"""Cost of ExpertUtilization relative to a training step: counting in each step, reduction and log of the window, figures.

The step is the cheapest of the small configuration (configs/conditioner/small.yaml, only the estimate: the DiT does not run), so the share
is the largest. The parts are timed by themselves, through the callback's own hook, because their sum is far below the noise in the
difference of two runs. Medians are reported for training steps and counting, means for windows and figures.

    python benchmarks/utilization_cost.py [--batch-size 8] [--crop 96] [--blocks 4] [--experts 4] [--json cost.json]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from figures import write_figures
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks import ExpertUtilization
from datamodules.degradations.groups import GROUPS
from mimdit.conditioner import MoEConditioner
from mimdit.core.batch import ATOMS
from mimdit.routing import RoutingBalance
from mimdit.routing.routing import Routing
from mimdit.training.losses import estimate_loss


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8, help="images per step")
    parser.add_argument("--crop", type=int, default=96, help="pixels of their sides")
    parser.add_argument("--blocks", type=int, default=4, help="MiM blocks")
    parser.add_argument("--experts", type=int, default=4, help="sub-experts per group")
    parser.add_argument("--steps", type=int, default=10, help="training steps to time")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


def time_training(options: argparse.Namespace) -> tuple[float, Routing]:
    """Return median seconds of a step of the conditioner with its losses and AdamW, and the last routing."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = {"num_layers": options.blocks + 1, "num_blocks": options.blocks, "num_experts": options.experts}
    conditioner = MoEConditioner(**sizes, estimate=True, tone_powers=[0.0, 0.4, 1.0, 2.0]).to(device)
    balance, optimizer = RoutingBalance(), torch.optim.AdamW(conditioner.parameters(), lr=1e-4)
    clean = torch.rand(options.batch_size, 3, options.crop, options.crop, device=device) * 2 - 1
    seconds = []
    for _ in range(options.steps + 3):
        _synchronize()
        start = time.perf_counter()
        conditioning = conditioner(clean * 0.5, reroute=[])
        losses = balance(conditioning.rerouted)
        loss = estimate_loss(conditioning.estimate, clean) + sum(balance.weights[name] * value for name, value in losses.items())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        _synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[3:]), conditioning.routing.detach()


def all_degradations(device: torch.device) -> torch.Tensor:
    """Return the multi-hot rows of the clean image and FoundIR's twenty groups, the rows of a figure."""
    return torch.tensor([[float(atom in atoms) for atom in ATOMS] for atoms in GROUPS.values()], device=device)


def time_callback(routing: Routing, folder: str) -> dict[str, float]:
    """Return seconds of one call of the callback's hook: in a plain step, and additionally at the end of a window and for figures."""
    trainer = SimpleNamespace(loggers=[TensorBoardLogger(folder)], is_global_zero=True, global_step=0)
    window, figures = 50, 200
    callback = ExpertUtilization(every_n_steps=window, figure_every_n_steps=figures)
    callback.on_train_start(trainer, None)
    outputs, degradations = {"routing": routing}, all_degradations(routing.features_MBF.device)
    plain, closing, drawing = [], [], []
    for step in range(1, 4 * figures + 1):
        trainer.global_step = step
        batch = {"degradation": degradations[torch.arange(routing.features_MBF.shape[1]).add(step) % len(degradations)]}
        _synchronize()
        start = time.perf_counter()
        callback.on_train_batch_end(trainer, None, outputs, batch, step)
        _synchronize()
        kind = drawing if step % figures == 0 else closing if step % window == 0 else plain
        kind.append(time.perf_counter() - start)
    trainer.loggers[0].experiment.close()
    counting, window_seconds = statistics.median(plain), statistics.mean(closing)
    return {"counting": counting, "window": window_seconds - counting, "figures": statistics.mean(drawing) - window_seconds}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Measure, print a table, and write the JSON."""
    options = arguments()
    torch.manual_seed(0)
    step, routing = time_training(options)
    with tempfile.TemporaryDirectory() as folder:
        parts = time_callback(routing, folder)
    every = {"counting": 1, "window": 50, "figures": 500}
    share = {name: parts[name] / every[name] / step for name in parts}
    sizes = f"{options.batch_size} images of {options.crop} px, {options.blocks} blocks, {options.experts} experts"
    print(f"training step: {1e3 * step:.1f} ms ({sizes})")
    print(f"{'part':<10}{'ms a call':>12}{'every':>8}{'share of a step':>18}")
    for name, seconds in parts.items():
        print(f"{name:<10}{1e3 * seconds:>12.2f}{every[name]:>8}{100 * share[name]:>17.3f}%")
    print(f"{'sum':<30}{100 * sum(share.values()):>17.3f}%")
    if options.json is not None:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
        figures = {"device": device, "sizes": sizes, "step_seconds": step, "seconds": parts, "every": every, "share": share}
        figures["share_sum"] = sum(share.values())
        write_figures(options.json, figures)


if __name__ == "__main__":
    main()
