"""Traffic of data parallelism in the SD3.5-medium run, the link speed it needs, and predictions at 8, 64 and 512 GPUs.

Counted: weights and FLOPs, from the configuration on the meta device. Predicted, by the model below: bytes, the link speed at which they
hide behind the computation, the efficiency. Measured: the same work over 1, 2 and 4 processes of this machine's CPU (``--measure``).

The model. n GPUs in N nodes of g = 8; each GPU has NVLink to its node's others and a share of its node's network; batch per GPU fixed.
S is the unsharded size in bytes of the exchanged tensors.

- all-reduce (DDP, of the trained weights' fp32 gradients): a ring moves 2 (n-1)/n S out of each GPU. Hierarchical: reduce-scatter in the
  node, all-reduce of S/g between nodes, gather in the node: seconds = 2 (g-1)/g S / NVLink + 2 (N-1)/N (S/g) / network.
- all-gather and reduce-scatter (FSDP2): (n-1)/n S each; seconds = (g-1)/g S / NVLink + (N-1)/N (S/g) / network. FSDP2 gathers all weights
  in the forward and again in the backward pass (frozen ones in bf16, trained ones in fp32, as `FSDP2Strategy` keeps them), and scatters
  the trained weights' fp32 gradients.
- overlap: DDP's all-reduce can hide behind the part of the backward pass that computes its gradients: the whole pass if the DiT trains; if
  it is frozen, only the conditioner's, which comes last. FSDP2's gathers hide behind the forward and backward pass except for the first
  unit of each; its gradients' scatter hides behind the same part as DDP's all-reduce.
- computation: FLOPs of the step at an assumed share of the device's dense peak. Links reach an assumed share of their nominal speed.
  Nothing else costs: no latency, no stragglers, no contention, no data.

    python benchmarks/scaling.py [--measure] [--json scaling.json]
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from figures import write_figures
from scaling_ranks import IMAGES, measure
from sd35_medium import SIZES, make_batch, make_restorer

from mimdit.training.flops import StepFlops, meta_twin, step_flops, training_flops

CONFIG = Path(__file__).parents[1] / "configs/conditioner/sd35_medium_paper.yaml"
"""The conditioner of configs/foundir_sd35_medium.yaml."""
GPUS = (8, 64, 512)
NODE = 8
PEAK = 989e12
"""Dense bf16 FLOP/s of an H100 SXM (NVIDIA's data sheet)."""
NVLINK = 450e9
"""Bytes per second out of a GPU over NVLink 4, one way (data sheet: 900 GB/s both ways)."""
NETWORKS = {"400 Gb/s a GPU": 50e9, "200 Gb/s a node": 25e9 / NODE, "25 Gb/s a node": 25e9 / 8 / NODE}
"""Bytes per second out of a GPU: its share of the node's bandwidth."""


@dataclass(frozen=True)
class Work:
    """FLOPs of one GPU per step, and exchanged bytes.

    ``window`` is the FLOPs of the part of the backward pass that computes the trained weights' gradients; ``first`` is the bytes of the
    largest unit that FSDP2 gathers, used for the first unit, which nothing hides.
    """

    forward: float
    backward: float
    window: float
    trained_bytes: float
    frozen_bytes: float
    first: float


@dataclass(frozen=True)
class Links:
    """Bytes per second out of each GPU."""

    nvlink: float
    network: float

    def pass_seconds(self, size: float, gpus: int) -> float:
        """Return seconds of one all-gather, or one reduce-scatter, of ``size`` bytes."""
        group = min(gpus, NODE)
        nodes = gpus // group
        return (group - 1) / group * size / self.nvlink + (nodes - 1) / nodes * size / group / self.network


def moved(work: Work, strategy: str, gpus: int) -> float:
    """Return the bytes sent by each GPU per step; it receives as many."""
    share = (gpus - 1) / gpus
    if strategy == "ddp":
        return 2 * share * work.trained_bytes
    return share * (2 * (work.trained_bytes + work.frozen_bytes) + work.trained_bytes)


def exposed(work: Work, strategy: str, gpus: int, links: Links, speed: float) -> float:
    """Return the seconds of communication per step that computation does not hide, at ``speed`` FLOP/s."""
    forward, backward, window = work.forward / speed, work.backward / speed, work.window / speed
    if strategy == "ddp":
        return max(0.0, 2 * links.pass_seconds(work.trained_bytes, gpus) - window)
    gather, scatter = links.pass_seconds(work.trained_bytes + work.frozen_bytes, gpus), links.pass_seconds(work.trained_bytes, gpus)
    first = links.pass_seconds(work.first, gpus)
    # The scatter hides in the part of its window that the gathers leave free.
    late = max(0.0, gather - first - (backward - window))
    return 2 * first + max(0.0, gather - first - forward) + max(0.0, late + scatter - window)


def efficiency(work: Work, strategy: str, gpus: int, links: Links, speed: float) -> float:
    """Return the share of time in which a GPU computes, 0..1; 1 on a single GPU."""
    alone = (work.forward + work.backward) / speed
    return alone / (alone + exposed(work, strategy, gpus, links, speed))


def hiding_speed(work: Work, strategy: str, gpus: int, speed: float) -> float:
    """Return the bytes per second of equal links (a flat ring) above which faster links hide nothing more."""
    share = (gpus - 1) / gpus
    if strategy == "ddp":
        return 2 * share * work.trained_bytes / (work.window / speed)
    gathered = work.trained_bytes + work.frozen_bytes - work.first
    needs = [gathered / work.forward, (gathered + work.trained_bytes) / work.backward, work.trained_bytes / work.window]
    return share * speed * max(needs)


def hiding_network(work: Work, strategy: str, gpus: int, nvlink: float, speed: float) -> float | None:
    """Return the least bytes per second of each GPU's network, beside NVLink, that hide all but FSDP2's first units; None in one node."""
    if gpus <= NODE:
        return None

    def left(network: float) -> float:
        links = Links(nvlink, network)
        first = 2 * links.pass_seconds(work.first, gpus) if strategy == "fsdp2" else 0.0
        return exposed(work, strategy, gpus, links, speed) - first

    enough = left(math.inf) + 1e-6 * work.window / speed
    low, high = 1.0, 1e15
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if left(middle) <= enough else (middle, high)
    return high


def count(batch_size: int, size_name: str, config: Path) -> dict:
    """Count the configuration's weights and FLOPs on the meta device, with the DiT frozen and trained."""
    size = SIZES[size_name]
    with torch.device("meta"):
        restorer = make_restorer(size, config).to("meta")
    restorer.backbone.transformer.to(torch.bfloat16)  # as configs/backbone/sd35_medium.yaml keeps it
    conditioner = sum(parameter.numel() for parameter in restorer.conditioner.parameters() if parameter.requires_grad)
    transformer = sum(parameter.numel() for parameter in restorer.backbone.transformer.parameters())
    units = _units(restorer.backbone.shard_units())
    batch = make_batch(size, 1)
    frozen = training_flops(restorer, batch)
    alone = _alone(restorer, size)
    twin = meta_twin(restorer)
    twin.backbone.transformer.requires_grad_(True)
    trained = training_flops(twin, batch)
    work = {
        "frozen": Work(
            frozen.forward * batch_size, frozen.backward * batch_size, (frozen.backward - alone.backward) * batch_size,
            4 * conditioner, 2 * transformer, 2 * max(units),
        ),
        "trained": Work(
            trained.forward * batch_size, trained.backward * batch_size, trained.backward * batch_size,
            4 * (conditioner + transformer), 0, 4 * max(units),
        ),
    }  # fmt: skip
    counts = {"conditioner": conditioner, "transformer": transformer, "largest unit": max(units)}
    return {"weights": counts, "work": work}


def _units(units: list[list[torch.nn.Module]]) -> list[int]:
    """Return the weights of each unit that no earlier unit holds: `fully_shard` gives an outer unit the rest of the inner ones."""
    taken: set[torch.nn.Parameter] = set()
    sizes = []
    for unit in units:
        own = {parameter for module in unit for parameter in module.parameters()} - taken
        sizes.append(sum(parameter.numel() for parameter in own))
        taken |= own
    return sizes


def _alone(restorer, size) -> StepFlops:
    """Count the FLOPs of the transformer for one image, forward and backward to the residuals."""
    twin = meta_twin(restorer)
    latents, sigma = make_batch(size, 1)["lq"].to("meta"), torch.ones(1, device="meta")
    residual = torch.zeros(1, size.latent**2 // 4, size.width, requires_grad=True, device="meta")
    return step_flops(lambda: twin.backbone.velocity(latents, sigma, [residual]).sum())


def predict(work: dict[str, Work], utilization: float, reached: float) -> list[dict]:
    """Return one row per strategy and number of GPUs, each with the DiT frozen and trained."""
    rows, speed = [], utilization * PEAK
    for training, each in work.items():
        for strategy in ("ddp", "fsdp2"):
            for gpus in GPUS:
                links = {name: Links(reached * NVLINK, reached * network) for name, network in NETWORKS.items()}
                rows.append({
                    "training": training, "strategy": strategy, "gpus": gpus, "bytes": moved(each, strategy, gpus),
                    "hiding_bytes_per_second": hiding_speed(each, strategy, gpus, speed),
                    "hiding_network_bytes_per_second": hiding_network(each, strategy, gpus, reached * NVLINK, speed),
                    "efficiency": {name: efficiency(each, strategy, gpus, link, speed) for name, link in links.items()},
                })  # fmt: skip
    return rows


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16, help="images of a GPU and step")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the dense peak that a step is assumed to reach")
    parser.add_argument("--reached", type=float, default=0.8, help="share of their nominal speed that links are assumed to reach")
    parser.add_argument("--size", choices=SIZES, default="full", help="tiny is a smoke test")
    parser.add_argument("--config", type=Path, default=CONFIG, help="the conditioner's configuration")
    parser.add_argument("--measure", action="store_true", help="also measure 1, 2 and 4 processes on this machine's CPU")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="the numbers of processes that --measure takes")
    parser.add_argument("--steps", type=int, default=12, help="steps that --measure counts")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


def report(figures: dict) -> str:
    """Return the figures as tables."""
    weights, work = figures["weights"], figures["work"]
    lines = [
        f"Weights: conditioner {weights['conditioner'] / 1e6:.1f} million, transformer {weights['transformer'] / 1e6:.1f} million. "
        + ". ".join(
            f"A step with the transformer {name}: {(each['forward'] + each['backward']) / 1e12:.1f} TFLOP, "
            f"{1e3 * (each['forward'] + each['backward']) / (figures['mfu'] * PEAK):.0f} ms; "
            f"gradients come up in {1e3 * each['window'] / (figures['mfu'] * PEAK):.0f} ms of it"
            for name, each in work.items()
        )
        + ".",
        "",
        "| transformer | strategy | GPUs | GB out of a GPU a step | GB/s of a flat ring that hide it | "
        "GB/s of a GPU's network, beside NVLink | " + " | ".join(f"at {name}" for name in NETWORKS) + " |",
        "|" + "---|" * (6 + len(NETWORKS)),
    ]
    for row in figures["predicted"]:
        shares = " | ".join(f"{value:.3f}" for value in row["efficiency"].values())
        network = row["hiding_network_bytes_per_second"]
        needs = [f"{row['hiding_bytes_per_second'] / 1e9:.3g}", "-" if network is None else f"{network / 1e9:.3g}"]
        cells = [row["training"], row["strategy"], str(row["gpus"]), f"{row['bytes'] / 1e9:.3g}", *needs, shares]
        lines.append(f"| {' | '.join(cells)} |")
    if "measured" in figures:
        lines += [
            "",
            "| strategy | processes | ms a step | speed-up | CPU ms of all processes a step | over one process's |",
            "|---|---|---|---|---|---|",
        ]
        for strategy, counts in figures["measured"].items():
            first = next(iter(counts.values()))
            for number, found in counts.items():
                ratios = first["wall"] / found["wall"], found["cpu"] / first["cpu"]
                lines.append(
                    f"| {strategy} | {number} | {1e3 * found['wall']:.0f} | {ratios[0]:.2f} | {1e3 * found['cpu']:.0f} | {ratios[1]:.2f} |"
                )
        lines.append(f"\n{IMAGES} images a step over all processes; {figures['cores']} cores, load {figures['load']} before and after.")
    return "\n".join(lines)


def main() -> None:
    """Count, predict, optionally measure, print, and write the JSON."""
    options = arguments()
    counted = count(options.batch_size, options.size, options.config)
    figures = {
        "mfu": options.mfu, "reached": options.reached, "batch_size": options.batch_size, "peak": PEAK, "nvlink": NVLINK,
        "networks": NETWORKS, "weights": counted["weights"], "work": {name: asdict(each) for name, each in counted["work"].items()},
        "predicted": predict(counted["work"], options.mfu, options.reached), "torch": torch.__version__,
    }  # fmt: skip
    if options.measure:
        before = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            figures["measured"] = measure(Path(folder), options.processes, options.steps)
        figures |= {"cores": len(os.sched_getaffinity(0)), "load": [round(before, 1), round(os.getloadavg()[0], 1)]}
    print(report(figures))
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
