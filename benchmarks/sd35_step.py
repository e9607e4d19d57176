"""Training speed of SD3.5-medium's conditioner on this device: images/s, MFU, and the parts of a step's time.

Random weights of SD3.5-medium's size, frozen, in bf16 (or ``--precision``'s), the conditioner of ``--config`` under autocast, latents of
512-pixel images cached on the host, AdamW and the moving average as in training. The whole step is timed in two ways: several in a row
without a wait between them (for images/s and MFU), and one by itself. Its parts are timed by themselves: the batch's transfer to the
device, the conditioner forward and backward, the transformer forward, its backward to the residuals, the optimizer with the moving
average. The rest of the step is losses, noise and overlap. Whole and parts take turns; medians are reported.

The goal on an accelerator: at least 40 % of 989 TFLOP/s (the dense bf16 peak of an H100 or H200 SXM).

    python benchmarks/sd35_step.py --batch-size 32 --compile [--json sd35_step.json]
    python benchmarks/sd35_step.py --tiny     # a smoke test for a CPU
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from figures import write_figures
from sd35_medium import CONFIG, SIZES, device_name, make_batch, make_restorer, synchronize
from torch import nn

from mimdit.core.batch import Batch
from mimdit.restorer.restorer import Restorer
from mimdit.training.devices import peak_flops
from mimdit.training.flops import step_flops, training_flops

GOAL = 0.40
PRECISIONS = {"bf16-mixed": torch.bfloat16, "32-true": torch.float32}


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16, help="images of a step")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16-mixed", help="the Trainer's name for it")
    parser.add_argument("--compile", action="store_true", help="compile each block of the transformer and of the conditioner")
    parser.add_argument("--checkpoint", action="store_true", help="recompute the transformer's activations in its backward pass")
    parser.add_argument("--text-tokens", type=int, help="text tokens; 77 by default")
    parser.add_argument("--steps", type=int, default=10, help="steps without a wait between them in one round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one that does not")
    parser.add_argument("--peak-tflops", type=float, help="dense peak of this device; that of mimdit.training.devices by default")
    parser.add_argument("--config", type=Path, default=CONFIG, help="the conditioner's configuration")
    parser.add_argument("--tiny", action="store_true", help="a tiny transformer in fp32, two images and two rounds")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.tiny:
        options.batch_size, options.precision, options.steps, options.rounds = 2, "32-true", 2, 2
    return options


class Training:
    """A restorer with its optimizer, and the parts of a step as functions without arguments."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        size = SIZES["tiny" if options.tiny else "full"]
        self.device, dtype = device, PRECISIONS[options.precision]
        with device:
            self.restorer: Restorer = make_restorer(size, options.config, text_tokens=options.text_tokens).to(device)
        transformer = self.restorer.backbone.transformer.to(dtype)
        _randomise_zeros(self.restorer)
        if options.checkpoint:
            transformer.enable_gradient_checkpointing()
        self.flops, self.transformer_flops = self._count(size, options)
        if options.compile:
            self.restorer.compile_blocks()
        trained = [parameter for parameter in self.restorer.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=device.type == "cuda")
        self.autocast = nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)
        self.waiting = [self._pinned(make_batch(size, options.batch_size, seed)) for seed in range(4)]
        self.batch, self.steps = self._to_device(self.waiting[0]), 0
        with torch.no_grad(), self.autocast:
            residuals = self.restorer.conditioner(self.batch["lq"]).residuals
        self.residuals = [torch.randn_like(residual).requires_grad_() for residual in residuals]
        self.sigma = torch.rand(options.batch_size, device=device)
        self.peak_gib: dict[str, float] = {}

    def _count(self, size, options: argparse.Namespace) -> tuple[int, int]:
        """Return the FLOPs of a whole step for one image, and of only the transformer, forward and backward to the residuals."""
        batch = make_batch(size, 1)
        with torch.device("meta"):
            restorer = make_restorer(size, options.config, text_tokens=options.text_tokens).to("meta")
            latents, sigma = batch["lq"].to("meta"), torch.ones(1)
            residual = torch.zeros(1, size.latent**2 // 4, size.width, requires_grad=True)
        alone = step_flops(lambda: restorer.backbone.velocity(latents, sigma, [residual]).sum())
        return training_flops(restorer, batch).total, alone.total

    def _pinned(self, batch: Batch) -> Batch:
        if self.device.type != "cuda":
            return batch
        return {name: value.pin_memory() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}

    def _to_device(self, batch: Batch) -> Batch:
        on_device = {n: v.to(self.device, non_blocking=True) for n, v in batch.items() if isinstance(v, torch.Tensor)}
        return batch | on_device

    def data(self) -> None:
        """Move a batch to the device."""
        self.batch = self._to_device(self.waiting[self.steps % len(self.waiting)])

    def conditioner(self) -> None:
        """Run the conditioner forward and backward, with gradients like those of the losses."""
        with self.autocast:
            conditioning = self.restorer.conditioner(self.batch["lq"], reroute=[])
        outputs = [*conditioning.residuals, *([] if conditioning.estimate is None else [conditioning.estimate])]
        sum(output.float().square().sum() for output in outputs).backward()
        self.optimizer.zero_grad()

    def transformer_forward(self) -> None:
        """Run the transformer forward, keeping its activations for the backward pass."""
        with self.autocast:
            self._answer = self.restorer.backbone.velocity(self.batch["lq"], self.sigma, self.residuals)

    def transformer_backward(self) -> None:
        """Run the transformer's backward pass to the residuals, after `transformer_forward`."""
        self._answer.float().square().sum().backward()
        self._answer = None
        for residual in self.residuals:
            residual.grad = None

    def optimize(self) -> None:
        """Run the optimizer's step and update the moving average; missing gradients become zero."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.restorer.ema.update(self.steps)

    def step(self) -> None:
        """Run a whole step, as the Trainer does."""
        self.data()
        with self.autocast:
            loss = self.restorer.training_step(self.batch, 0)["loss"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.restorer.ema.update(self.steps)
        self.steps += 1


def _randomise_zeros(restorer: Restorer) -> None:
    """Fill zero weights with noise: multiplications by zero take less power on some devices."""
    with torch.no_grad():
        for parameter in restorer.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)


def measure(training: Training, options: argparse.Namespace) -> dict[str, float]:
    """Return median seconds of a step among consecutive steps, of a single step, and of its parts."""
    parts: dict[str, Callable[[], None]] = {
        "data": training.data,
        "conditioner": training.conditioner,
        "transformer forward": training.transformer_forward,
        "transformer backward": training.transformer_backward,
        "optimizer": training.optimize,
        "step": training.step,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ["step in a row", *parts]}
    for _ in range(options.rounds + 1):
        if training.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(training.device)
        seconds["step in a row"].append(_seconds(lambda: [training.step() for _ in range(options.steps)], training.device) / options.steps)
        if training.device.type == "cuda":
            training.peak_gib = {
                "peak_memory_gib": torch.cuda.max_memory_allocated(training.device) / 2**30,
                "reserved_memory_gib": torch.cuda.max_memory_reserved(training.device) / 2**30,
            }
        for name, part in parts.items():
            seconds[name].append(_seconds(part, training.device))
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def summary(training: Training, seconds: dict[str, float], options: argparse.Namespace) -> dict:
    """Return images/s, FLOPs and MFU."""
    device = training.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    peak = options.peak_tflops * 1e12 if options.peak_tflops else peak_flops(name, options.precision)
    rate = options.batch_size / seconds["step in a row"]
    alone = seconds["transformer forward"] + seconds["transformer backward"]
    figures = {
        "device": device_name(device), "torch": torch.__version__, "peak_flops": peak, "seconds": seconds, "images_per_second": rate,
        "flops_per_image": training.flops, "flops_per_second": training.flops * rate,
        "transformer_flops_per_second": training.transformer_flops * options.batch_size / alone,
    }  # fmt: skip
    figures["options"] = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    if peak:
        figures |= {"mfu": figures["flops_per_second"] / peak, "transformer_mfu": figures["transformer_flops_per_second"] / peak}
    return figures | training.peak_gib


def report(figures: dict) -> str:
    """Return the figures as a table and some lines."""
    seconds = figures["seconds"]
    whole = seconds["step"]
    lines = ["| part of a step | ms | of the step |", "|---|---|---|"]
    parts = [name for name in seconds if name not in ("step", "step in a row")]
    lines += [f"| {name} | {1e3 * seconds[name]:.2f} | {seconds[name] / whole:.3f} |" for name in parts]
    rest = whole - sum(seconds[name] for name in parts)
    lines += [f"| the rest | {1e3 * rest:.2f} | {rest / whole:.3f} |", f"| a step by itself | {1e3 * whole:.2f} | 1 |"]
    lines.append(f"| a step in a row | {1e3 * seconds['step in a row']:.2f} | {seconds['step in a row'] / whole:.3f} |")
    speed, alone = figures["flops_per_second"] / 1e12, figures["transformer_flops_per_second"] / 1e12
    lines.append(f"{figures['images_per_second']:.4g} images/s of {figures['flops_per_image'] / 1e12:.4g} TFLOP, on {figures['device']}")
    lines.append(f"{speed:.4g} TFLOP/s; the transformer alone {alone:.4g} TFLOP/s")
    if "mfu" in figures:
        shares = f"MFU {figures['mfu']:.3f}, of the transformer alone {figures['transformer_mfu']:.3f}"
        verdict = "met" if figures["mfu"] >= GOAL else "MISSED"
        lines.append(f"{shares}, of {figures['peak_flops'] / 1e12:.4g} TFLOP/s; goal {GOAL}: {verdict}")
    else:
        lines.append("no MFU: the peak of this device is not known; give --peak-tflops")
    if "peak_memory_gib" in figures:
        lines.append(f"peak memory {figures['peak_memory_gib']:.2f} GiB, reserved {figures['reserved_memory_gib']:.2f} GiB")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the JSON."""
    options = arguments()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    training = Training(options, device)
    figures = summary(training, measure(training, options), options)
    print(report(figures))
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
