"""Cost of the strategies by themselves: the same training on one rank without a strategy, under DDP and under FSDP2.

SD3.5-medium's conditioner on a frozen bf16 backbone with random weights, as in ``sd35_step.py``, trained by Lightning's Trainer in a
process group of one rank
(NCCL on CUDA, gloo on a CPU): nothing is sent, so the difference is what gathering, bucketing and hooks cost. Losses of
all strategies must agree, as seeds and images are the same.

    python benchmarks/rank_overhead.py [--batch-size 8] [--steps 8] [--tiny] [--json rank_overhead.json]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist
from figures import write_figures
from scaling_ranks import Clock
from sd35_medium import SIZES, device_name, make_batch, make_restorer
from torch.utils.data import DataLoader

from mimdit.distributed import FSDP2Strategy

CONFIG = Path(__file__).parents[1] / "configs/conditioner/sd35_medium_paper.yaml"
STRATEGIES = ("auto", "ddp", "fsdp2")
SKIPPED = 3
"""First steps, which are not timed."""
TOLERANCE = 0.02
"""Largest relative difference of losses that counts as rounding in bf16."""


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8, help="images of a step")
    parser.add_argument("--steps", type=int, default=8, help="timed steps")
    parser.add_argument("--tiny", action="store_true", help="a tiny transformer, two images")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.tiny:
        options.batch_size, options.steps = 2, 2
    return options


class Losses(L.Callback):
    """Callback that keeps the loss of every step, on the device."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Keep the loss."""
        self.losses.append(outputs["loss"].detach())


def measure(strategy: str, options: argparse.Namespace, device: torch.device) -> dict:
    """Return seconds per step, losses and peak memory of one strategy."""
    size = SIZES["tiny" if options.tiny else "full"]
    torch.manual_seed(0)
    with device:
        restorer = make_restorer(size, CONFIG)
    restorer.to(device).backbone.transformer.to(torch.bfloat16)
    batches = [make_batch(size, options.batch_size, seed) for seed in range(options.steps + SKIPPED)]
    clock, losses = Clock(SKIPPED), Losses()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer = L.Trainer(
        accelerator=device.type, devices=1, strategy=FSDP2Strategy() if strategy == "fsdp2" else strategy, precision="bf16-mixed",
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, callbacks=[losses, clock],
    )  # fmt: skip
    trainer.fit(restorer, DataLoader(batches, batch_size=None))
    figures = {"seconds": statistics.median(clock.steps), "losses": [float(loss) for loss in losses.losses]}
    if device.type == "cuda":
        figures["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        figures["reserved_memory_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return figures


def main() -> None:
    """Measure, print, write the JSON, and fail if losses differ."""
    options = arguments()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    os.environ |= {"LOCAL_RANK": "0", "NODE_RANK": "0"}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        for strategy in STRATEGIES:
            found[strategy] = measure(strategy, options, device)
            print(strategy, found[strategy], flush=True)
        if dist.is_initialized():
            dist.destroy_process_group()
    alone = torch.tensor(found["auto"]["losses"])
    difference = max(float(((torch.tensor(row["losses"]) - alone) / alone).abs().max()) for row in found.values())
    figures = {"device": device_name(device), "torch": torch.__version__, "backend": backend, "loss_difference": difference}
    figures |= {"batch_size": options.batch_size, "strategies": found}
    write_figures(options.json, figures)
    if not difference <= TOLERANCE:
        raise SystemExit(f"the losses of the strategies differ by {difference:.1e}, more than rounding")


if __name__ == "__main__":
    main()
