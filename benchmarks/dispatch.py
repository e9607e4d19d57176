"""Cost of routing: an Intra-MoE of each kind for growing E, compared with dense computation and with a loop over experts.

Forward, backward and the zeroing of gradients (``set_to_none``) of one IntraMoE with E = 4, 8, 16, 32 sub-experts, of which k = 2 are
chosen by gates drawn from a seed. Three implementations with the same weights take turns in one process; medians are reported:

- ``ours``: stacked weights, dispatched by ``--dispatch`` (see `mimdit.conditioner.dispatch`).
- ``loop``: one ordinary module per sub-expert, each called on the rows routed to it (also on none, as DDP requires), outputs summed.
- ``dense``: the same modules, each called on all rows, outputs weighted by gates that are mostly zero.

First, output and gradients of ``ours`` and ``loop`` are compared with those of ``dense``; the program fails at its end if any differ by
more than rounding.
On a CPU, times are CPU times of the process, which others affect less, and freed memory is kept: a model of one layer would
otherwise return it to the system and fault it in again in every step (see ``--trim``). AdamW's step, and the memory of weights, gradients
and moments, grow with E whatever the dispatch; they are reported for the fewest and the most sub-experts.

    python benchmarks/dispatch.py [--width 128 256 512] [--rounds 9] [--device cpu] [--json dispatch.json]
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from figures import write_figures
from torch import nn

from mimdit.conditioner.intra_moe import IntraMoE
from mimdit.routing.router import decide
from mimdit.routing.routing import Gates

TOP_K = 2
TOLERANCE = {"fp32": 2e-5, "bf16": 4e-2}
"""Largest error that counts as rounding, relative to the largest value of a tensor."""


class PlainSpatial(nn.Module):
    """One spatial sub-expert of ordinary layers."""

    def __init__(self, stack: nn.Module, index: int) -> None:
        super().__init__()
        self.query, self.key_value, self.out = (linear(part, index) for part in (stack.query, stack.key_value, stack.out))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        key, value = self.key_value(tokens(F.adaptive_avg_pool2d(images, 8))).chunk(2, dim=2)
        return as_images(self.out(attention(self.query(tokens(images)), key, value)), images)


class PlainChannel(nn.Module):
    """One channel-attention sub-expert of ordinary layers."""

    def __init__(self, stack: nn.Module, index: int) -> None:
        super().__init__()
        self.qkv, self.local, self.out = linear(stack.qkv, index), depthwise(stack.local, index), linear(stack.out, index)
        self.temperature = nn.Parameter(stack.temperature_E[index].detach().clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        qkv = self.local(as_images(self.qkv(tokens(images)), images)).flatten(2)
        query, key, value = qkv.chunk(3, dim=1)
        norm_q, norm_k = (rows.float().square().sum(-1, keepdim=True).clamp_min(1e-6).rsqrt() for rows in (query, key))
        similarity = (query @ key.transpose(1, 2)).float() * norm_q * norm_k.transpose(1, 2)
        attended = (similarity * self.temperature).softmax(-1).to(value.dtype) @ value
        return as_images(self.out(attended.transpose(1, 2)), images)


class PlainSwin(nn.Module):
    """One (unshifted) window-attention sub-expert of ordinary layers."""

    def __init__(self, stack: nn.Module, index: int) -> None:
        super().__init__()
        self.qkv, self.out, self.window = linear(stack.qkv, index), linear(stack.out, index), stack.window
        self.position_bias = nn.Parameter(stack.position_bias_EP[index].detach().clone())
        self.register_buffer("position_NN", stack.position_NN)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        batch, size, channels = len(images), self.window, self.qkv.out_features
        down, across = images.shape[2] // size, images.shape[3] // size
        windows = self.qkv(tokens(images)).view(batch, down, size, across, size, channels).transpose(2, 3)
        query, key, value = windows.flatten(0, 2).flatten(1, 2).chunk(3, dim=2)
        attended = attention(query, key, value, self.position_bias[self.position_NN])
        attended = attended.view(batch, down, across, size, size, channels // 3).transpose(2, 3)
        return as_images(self.out(attended.reshape(batch, down * across * size**2, channels // 3)), images)


class PlainSqueezeExcitation(nn.Module):
    """One squeeze-and-excitation sub-expert of ordinary layers."""

    def __init__(self, stack: nn.Module, index: int) -> None:
        super().__init__()
        self.into, self.local, self.out = linear(stack.into, index), depthwise(stack.local, index), linear(stack.out, index)
        self.squeeze, self.excite = (nn.Parameter(layer[index].detach().clone()) for layer in (stack.squeeze_EOI, stack.excite_EOI))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value, gate = self.local(as_images(self.into(tokens(images)), images)).chunk(2, dim=1)
        gated = value * gate
        scale = 2 * F.linear(F.linear(gated.mean(dim=(2, 3)), self.squeeze).relu(), self.excite).sigmoid()
        return as_images(self.out(tokens(gated * scale[..., None, None])), images)


PLAIN = {"spatial": PlainSpatial, "channel": PlainChannel, "swin": PlainSwin, "se": PlainSqueezeExcitation}


def linear(stack: nn.Module, index: int) -> nn.Linear:
    """Return one layer of a `StackedPointwise`."""
    weight = stack.weight_EOI[index].detach().clone()
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device)
    layer.weight = nn.Parameter(weight)
    return layer


def depthwise(stack: nn.Module, index: int) -> nn.Conv2d:
    """Return one filter of a `StackedDepthwise`."""
    weight = stack.weight[index].detach().clone()
    layer = nn.Conv2d(len(weight), len(weight), 3, padding=1, groups=len(weight), bias=False, device=weight.device)
    layer.weight = nn.Parameter(weight)
    return layer


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return the attention of ``[B, N, d]``, written out as in the package: with so few keys faster on a CPU than the fused kernel."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(1, 2)
    return (scores if bias is None else scores + bias.to(scores.dtype)).softmax(-1).to(value.dtype) @ value


def tokens(images: torch.Tensor) -> torch.Tensor:
    """Reshape ``[B, C, H, W]`` to ``[B, N, C]``, without a copy because the memory is channels-last."""
    return images.flatten(2).transpose(1, 2)


def as_images(sequence: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Reshape ``[B, N, C]`` to ``[B, C, H, W]``, with the height and width of ``like``."""
    return sequence.transpose(1, 2).unflatten(2, like.shape[2:])


def run_loop(experts: nn.ModuleList, images: torch.Tensor, gates: Gates) -> torch.Tensor:
    """Run every sub-expert on the rows that chose it."""
    channels_last = images.permute(0, 2, 3, 1)  # so that selecting rows keeps the memory layout
    output = torch.zeros_like(channels_last)
    for index, expert in enumerate(experts):
        rows = (gates.indices == index).any(dim=1).nonzero().flatten()
        answer = expert(channels_last.index_select(0, rows).permute(0, 3, 1, 2))
        weighed = answer * gates.weights[:, index].index_select(0, rows)[:, None, None, None].to(answer.dtype)
        output = output.index_add(0, rows, weighed.permute(0, 2, 3, 1))
    return output.permute(0, 3, 1, 2)


def run_dense(experts: nn.ModuleList, images: torch.Tensor, gates: Gates) -> torch.Tensor:
    """Run every sub-expert on all rows."""
    return sum(expert(images) * gates.weights[:, index, None, None, None] for index, expert in enumerate(experts))


class Case:
    """One Intra-MoE, the same weights in three implementations, and a batch."""

    def __init__(self, kind: str, width: int, num_experts: int, precision: str, options: argparse.Namespace) -> None:
        generator = torch.Generator().manual_seed(options.seed)
        torch.manual_seed(options.seed)
        extra = {"dispatch": options.dispatch} if options.dispatch else {}
        moe = IntraMoE(kind, width, width // TOP_K, num_experts, top_k=TOP_K, **extra).to(options.device)
        self.moe, self.precision = moe, precision
        self.plain = nn.ModuleList(PLAIN[kind](moe.experts, index) for index in range(num_experts)).to(options.device)
        side = int(options.tokens**0.5)
        images = torch.randn(options.batch, width, side, side, generator=generator)
        direction = torch.randn(images.shape, generator=generator)
        # Channels-last and of the autocast's type, as the preceding blocks return them.
        kept = {"device": options.device, "dtype": torch.bfloat16 if precision == "bf16" else torch.float32}
        self.images = images.to(**kept).contiguous(memory_format=torch.channels_last).requires_grad_()
        self.direction = direction.to(**kept).contiguous(memory_format=torch.channels_last)
        self.logits = torch.randn(options.batch, num_experts, generator=generator).to(options.device).requires_grad_()
        self.parts = {"ours": moe.experts, "loop": self.plain, "dense": self.plain}

    def forward(self, variant: str) -> torch.Tensor:
        """Compute the gates again and return the output of one implementation."""
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            gates = decide(self.logits, TOP_K)
            if variant == "ours":
                return self.moe(self.images, None, gates)[0]
            return {"loop": run_loop, "dense": run_dense}[variant](self.plain, self.images, gates)

    def step(self, variant: str) -> None:
        """Zero the gradients, forward, backward."""
        for parameter in self.parts[variant].parameters():
            parameter.grad = None
        self.images.grad = self.logits.grad = None
        output = self.forward(variant)
        output.backward(self.direction.to(output.dtype))

    def results(self, variant: str) -> dict[str, torch.Tensor]:
        """Return output and gradients by the names of the stack's parameters."""
        self.step(variant)
        found = {"output": self.forward(variant).detach(), "images": self.images.grad, "gates": self.logits.grad}
        if variant == "ours":
            return found | {f"parameter {n}": p.grad for n, p in enumerate(self.parts["ours"].parameters())}
        for n, name in enumerate(dict(self.parts["ours"].named_parameters())):
            plain = re.sub("_E[A-Z]*$", "", name)
            found[f"parameter {n}"] = torch.stack([expert.get_parameter(plain).grad for expert in self.plain])
        return found

    def worst_error(self) -> float:
        """Return the largest error of ``ours`` and ``loop`` relative to ``dense``."""
        dense = self.results("dense")
        errors = {
            (variant, name): float((value.float() - dense[name].float()).abs().max() / dense[name].float().abs().max().clamp_min(1e-20))
            for variant in ("ours", "loop")
            for name, value in self.results(variant).items()
        }
        where, worst = max(errors.items(), key=lambda item: item[1])
        if not worst <= TOLERANCE[self.precision]:
            print(f"{where} differs from the dense reference by {worst:.1e} of its largest value: not rounding", flush=True)
        return worst


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(PLAIN), choices=list(PLAIN))
    parser.add_argument("--width", type=int, nargs="+", default=[128, 256], help="channels; a sub-expert is half as wide")
    parser.add_argument("--experts", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"], help="bf16 is autocast")
    parser.add_argument("--tokens", type=int, default=256, help="positions of an image, a square number")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9, help="times that each implementation runs, after one to warm up")
    parser.add_argument("--dispatch", help="gather, grouped or auto; auto by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trim", action="store_true", help="let the C library give freed memory back to the system in every step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


def keep_memory() -> None:
    """Configure the C library's allocator to keep freed memory, as PyTorch's allocator on CUDA does."""
    libc, trim_threshold, mmap_max = ctypes.CDLL(None), -1, -4
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(mmap_max, 0)


def timed(function: Callable[[], None], device: str) -> float:
    """Return the seconds of one call; on a CPU its CPU time, which other processes affect less."""
    if device != "cuda":
        started = time.process_time()
        function()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(kind: str, width: int, precision: str, options: argparse.Namespace) -> dict:
    """Return milliseconds of each implementation at each number of experts, interleaved."""
    cases = {count: Case(kind, width, count, precision, options) for count in options.experts}
    error = max(case.worst_error() for case in cases.values())
    few, many = min(cases), max(cases)
    turns = {f"{variant} {count}": partial(cases[count].step, variant) for count in cases for variant in ("ours", "loop")}
    turns[f"dense {many}"] = partial(cases[many].step, "dense")
    for count in (few, many):
        turns[f"optimizer {count}"] = torch.optim.AdamW(cases[count].moe.experts.parameters()).step
    seconds = {name: [] for name in turns}
    for _ in range(options.rounds + 1):
        for name, turn in turns.items():
            seconds[name].append(timed(turn, options.device))
    ms = {name: statistics.median(values[1:]) * 1e3 for name, values in seconds.items()}
    parameters = {count: sum(p.numel() for p in case.moe.experts.parameters()) for count, case in cases.items()}
    return {
        "kind": kind, "width": width, "precision": precision, "error": error, "ms": ms, "few": few, "many": many,
        "growth": ms[f"ours {many}"] / ms[f"ours {few}"],
        "dense_over_ours": ms[f"dense {many}"] / ms[f"ours {many}"],
        "loop_over_ours": {count: ms[f"loop {count}"] / ms[f"ours {count}"] for count in cases},
        "mib": {count: 16 * number / 2**20 for count, number in parameters.items()},
    }  # fmt: skip


def row(figures: dict) -> str:
    """Return one line of the table."""
    few, many, ms, mib = figures["few"], figures["many"], figures["ms"], figures["mib"]
    cells = [
        figures["kind"], figures["width"], figures["precision"], f"{ms[f'ours {few}']:.1f}", f"{figures['growth']:.2f}",
        f"{figures['dense_over_ours']:.1f}", " ".join(f"{value:.2f}" for value in figures["loop_over_ours"].values()),
        f"{figures['error']:.0e}", f"{ms[f'optimizer {few}']:.1f} {ms[f'optimizer {many}']:.1f}", f"{mib[few]:.0f} {mib[many]:.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def main() -> None:
    """Measure and print."""
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # its rounding would count as an error
    if not options.trim:
        keep_memory()
    few, many = min(options.experts), max(options.experts)
    counts = " ".join(str(count) for count in options.experts)
    name = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} thread(s)"
    print(f"{name}, torch {torch.__version__}, load average {os.getloadavg()[0]:.1f} at the start")
    print(
        f"| kind | width | precision | ours E={few}, ms | ours E={many} / E={few} | dense / ours E={many} | loop / ours E={counts} "
        f"| error | AdamW E={few} {many}, ms | MiB E={few} {many} |\n|{'---|' * 10}"
    )
    rows = []
    for precision in options.precision:
        for width in options.width:
            for kind in options.kinds:
                rows.append(measure(kind, width, precision, options))
                print(row(rows[-1]), flush=True)
    write_figures(options.json, {"device": name, "torch": torch.__version__, "rows": rows})
    if not all(found["error"] <= TOLERANCE[found["precision"]] for found in rows):
        raise SystemExit("some outputs or gradients differ from the dense reference by more than rounding, see above")


if __name__ == "__main__":
    main()
