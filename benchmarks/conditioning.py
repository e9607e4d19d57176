"""Cost of steering a frozen diffusion transformer: this conditioner against ControlNet and against concatenated tokens.

Variants: the backbone by itself (its training step runs forward, and backward to residuals after its blocks: the least that any steering
needs), and the backbone with the MoE conditioner of ``--config``, with diffusers' SD3ControlNetModel of 12 layers, or with a second stream
of tokens as in DiT4SR (see ``rivals.py`` for its parts).

- FLOPs of a training step and of a 28-step restoration of one image of 512 pixels with 77 text tokens, counted on the meta device at
  SD3.5-medium's size by the rules of `mimdit.training.flops`. There is no VAE: the inputs are latents.
- Time and peak memory of the same at a small size, or with ``--time-size full`` on a device that can hold it. The variants take turns, and
  medians are reported. On a CPU this is the CPU time of one thread, which other processes do not lengthen. A step includes AdamW on the
  trained weights. Memory excludes the weights: it is the peak allocation on CUDA, and on a CPU (Linux) the growth of the resident set of a
  forked process that does nothing else.

    python benchmarks/conditioning.py [--time-size small] [--batch-size 1] [--rounds 5] [--json conditioning.json]
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from figures import write_figures
from rivals import ControlNet, TokenConcatenation
from sd35_medium import CONFIG, SIZES, Size, device_name, make_batch, make_restorer, synchronize
from torch import nn

from mimdit.conditioner.intra_moe import IntraMoE
from mimdit.core.batch import Batch
from mimdit.restorer.restorer import Restorer
from mimdit.training.flops import count_flops, restoration_flops, step_flops, training_flops

STEPS = 28
GOALS = {"step": 1.10, "restoration": 1.02}
"""Upper limit of the FLOPs of the conditioner's variant, relative to the bare backbone."""


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG, help="the conditioner's configuration")
    parser.add_argument("--flops-size", choices=SIZES, default="full", help="size at which FLOPs are counted")
    parser.add_argument("--time-size", choices=[*SIZES, "none"], default="small", help="size at which time and memory are measured")
    parser.add_argument("--batch-size", type=int, default=1, help="images where time and memory are measured")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of time and memory; bf16 is autocast")
    parser.add_argument("--rounds", type=int, default=5, help="times that each variant is timed")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


class Bare:
    """The bare backbone."""

    def __init__(self, restorer: Restorer, conditioning: nn.Module | None = None) -> None:
        self.restorer, self.backbone, self.conditioning = restorer, restorer.backbone, conditioning

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters that training changes."""
        return []

    def active(self) -> int:
        """Return the number of trained parameters that one image uses."""
        return sum(parameter.numel() for parameter in self.trained())

    def velocity(self, latents: torch.Tensor, sigma: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
        """Return the velocity at one sampler step."""
        return self.backbone.velocity(latents, sigma)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return the loss of a training step."""
        noise, sigma = torch.randn_like(batch["gt"]), torch.rand(len(batch["gt"]), device=batch["gt"].device)
        latents, target = self.restorer.flow.interpolate(batch["gt"], noise, sigma)
        return nn.functional.mse_loss(self._trained_velocity(latents, sigma, batch["lq"]), target)

    def _trained_velocity(self, latents: torch.Tensor, sigma: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
        tokens = latents.shape[2] * latents.shape[3] // self.backbone.token_patch**2
        residual = torch.zeros(len(latents), tokens, self.backbone.token_dim, device=latents.device, requires_grad=True)
        return self.backbone.velocity(latents, sigma, [residual])

    @torch.no_grad()
    def restore(self, degraded: torch.Tensor, steps: int) -> torch.Tensor:
        """Sample from noise."""
        noise = torch.randn_like(degraded)
        return self.restorer.flow.sample(lambda latents, sigma: self.velocity(latents, sigma, degraded), noise, 1.0, steps)

    def flops(self, batch: Batch) -> dict[str, int]:
        """Return the FLOPs of a training step on ``batch`` and of a restoration of its images."""
        one, two = (count_flops(lambda n=steps: self.restore(batch["lq"], n)) for steps in (1, 2))
        return {"step": step_flops(lambda: self.loss(batch)).total, "restoration": one + (STEPS - 1) * (two - one)}


class Conditioned(Bare):
    """The backbone and the MoE conditioner: the restorer itself."""

    def trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.restorer.conditioner.parameters() if parameter.requires_grad]

    def active(self) -> int:
        idle = 0
        for group in self.restorer.conditioner.modules():
            if isinstance(group, IntraMoE):
                stored = sum(parameter.numel() for parameter in group.experts.parameters())
                idle += stored - stored * group.router.top_k // group.num_experts
        return super().active() - idle

    def loss(self, batch: Batch) -> torch.Tensor:
        return self.restorer.training_step(batch, 0)["loss"]

    def restore(self, degraded: torch.Tensor, steps: int) -> torch.Tensor:
        return self.restorer.restore(degraded, steps)

    def flops(self, batch: Batch) -> dict[str, int]:
        return {
            "step": training_flops(self.restorer, batch).total,
            "restoration": restoration_flops(self.restorer, batch["lq"], STEPS),
        }


class Rival(Bare):
    """The backbone and one module of ``rivals.py``, which runs at every step."""

    def trained(self) -> list[nn.Parameter]:
        return list(self.conditioning.parameters())

    def velocity(self, latents: torch.Tensor, sigma: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
        return self.conditioning.velocity(self.backbone, latents, sigma, degraded)

    _trained_velocity = velocity


def make_variants(size: Size, config: Path, device: torch.device) -> dict[str, Bare]:
    """Build all variants on one frozen backbone with random weights."""
    with device:
        restorer = make_restorer(size, config).to(device)
        return {
            "backbone alone": Bare(restorer),
            "MoE conditioner": Conditioned(restorer),
            "ControlNet, 12 layers": Rival(restorer, ControlNet(restorer.backbone)),
            "token concatenation": Rival(restorer, TokenConcatenation(restorer.backbone)),
        }


def count(options: argparse.Namespace) -> dict[str, dict]:
    """Count parameters and FLOPs of each variant for one image."""
    size, device = SIZES[options.flops_size], torch.device("meta")
    batch = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in make_batch(size, 1).items()}
    found = {}
    for name, variant in make_variants(size, options.config, device).items():
        trained = sum(parameter.numel() for parameter in variant.trained())
        found[name] = {"trained_parameters": trained, "active_parameters": variant.active(), "flops": variant.flops(batch)}
    return found


def measure(options: argparse.Namespace) -> dict[str, dict]:
    """Measure seconds and MiB of each variant, interleaved."""
    size, device = SIZES[options.time_size], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = {n: v.to(device) if isinstance(v, torch.Tensor) else v for n, v in make_batch(size, options.batch_size).items()}
    variants = make_variants(size, options.config, device)
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=options.precision == "bf16")
    if options.precision == "bf16":
        variants["backbone alone"].backbone.transformer.to(torch.bfloat16)
    work: dict[str, dict[str, Callable[[], None]]] = {}
    for name, variant in variants.items():
        optimizer = torch.optim.AdamW(variant.trained() or [nn.Parameter(torch.zeros(1, device=device))])
        work[name] = {"step": _step(variant, optimizer, batch, autocast), "restoration": _restoration(variant, batch, STEPS, autocast)}
    brief = {name: runs | {"restoration": _restoration(variants[name], batch, 2, autocast)} for name, runs in work.items()}
    # Memory first: forked processes inherit the allocations of this one, which has run nothing yet. All sampler steps take the same memory,
    # so two suffice.
    found = {name: {"peak_mib": {what: peak_mib(run, device) for what, run in runs.items()}} for name, runs in brief.items()}
    for run in (run for runs in brief.values() for run in runs.values()):
        run()
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds: dict[tuple[str, str], list[float]] = {(name, what): [] for name, runs in work.items() for what in runs}
    for _ in range(options.rounds):
        for name, what in seconds:
            synchronize(device)
            start = clock()
            work[name][what]()
            synchronize(device)
            seconds[name, what].append(clock() - start)
    for name, row in found.items():
        row["seconds"] = {what: statistics.median(seconds[name, what]) for what in work[name]}
    return found


def _restoration(variant: Bare, batch: Batch, steps: int, autocast: Callable) -> Callable[[], None]:
    def run() -> None:
        with autocast():
            variant.restore(batch["lq"], steps)

    return run


def _step(variant: Bare, optimizer: torch.optim.Optimizer, batch: Batch, autocast: Callable) -> Callable[[], None]:
    def run() -> None:
        with autocast():
            loss = variant.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def peak_mib(run: Callable[[], None], device: torch.device) -> float:
    """Return the peak MiB above those held before, of two runs: only the second starts with the optimizer's state."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_resident_growth, args=(run, send))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the process that was to measure memory ended with {process.exitcode}")
    return receive.recv()


def _resident_growth(run: Callable[[], None], send) -> None:
    # The parent's pool of threads is invalid here; replaced now, or two threads of the backward pass may replace it at once.
    torch.set_num_threads(torch.get_num_threads())
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident_mib("VmRSS")
    run()
    run()
    send.send(_resident_mib("VmHWM") - before)


def _resident_mib(field: str) -> float:
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def table(figures: dict) -> str:
    """Return all figures, each with its ratio to the bare backbone."""
    columns = ["variant", "trained, M", "of these active", "step, TFLOP", "", "restoration, TFLOP", ""]
    columns += ["step, s", "", "restoration, s", "", "step, MiB", "restoration, MiB"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    variants, first = figures["variants"], next(iter(figures["variants"].values()))

    def pair(row: dict, kind: str, what: str, unit: float, digits: int) -> str:
        if kind not in row:
            return "- | -"
        return f"{row[kind][what] / unit:.{digits}f} | {row[kind][what] / first[kind][what]:.3f} x"

    for name, row in variants.items():
        cells = [name, f"{row['trained_parameters'] / 1e6:.1f}", f"{row['active_parameters'] / 1e6:.1f}"]
        cells += [pair(row, "flops", what, 1e12, 3) for what in ("step", "restoration")]
        cells += [pair(row, "seconds", what, 1.0, 3) for what in ("step", "restoration")]
        cells += [f"{row['peak_mib'][what]:.0f}" if "peak_mib" in row else "-" for what in ("step", "restoration")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdicts(figures: dict) -> dict[str, dict]:
    """Return the goals of the MoE conditioner, its ratios, and true for each goal that is met."""
    first, ours = (figures["variants"][name]["flops"] for name in ("backbone alone", "MoE conditioner"))
    ratios = {what: ours[what] / first[what] for what in GOALS}
    return {what: {"goal": GOALS[what], "found": ratio, "met": ratio <= GOALS[what]} for what, ratio in ratios.items()}


def main() -> None:
    """Count, measure, print, and write the JSON."""
    options = arguments()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    figures: dict = {"flops_size": options.flops_size, "time_size": options.time_size, "batch_size": options.batch_size}
    timed = {} if options.time_size == "none" else measure(options)
    figures["variants"] = {name: row | timed.get(name, {}) for name, row in count(options).items()}
    figures["goals"] = verdicts(figures)
    figures["device"] = device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    print(table(figures))
    print(f"FLOPs of one image at size {options.flops_size}; time and memory of {options.batch_size} at size {options.time_size}, on")
    print(figures["device"])
    for what, verdict in figures["goals"].items():
        print(f"goal, {what}: {verdict['found']:.4f} x of at most {verdict['goal']} x: {'met' if verdict['met'] else 'MISSED'}")
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
