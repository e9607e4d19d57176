"""Statistics of an image that determine its tone: a small network reads them and corrects generated images by a tone curve only.

    python benchmarks/tone_statistics.py data/quickstart/train --json benchmarks/tone_statistics.json

Prints the PSNR of held-out generated images by group, before and after, for the statistics that a gate reads (mean and log-std) and for
these with `tone_statistics` added. Same images, same network, same steps.
"""

import argparse

import torch
from figures import write_figures
from torch import nn

from datamodules.decoding import decode_pair
from datamodules.shards import ShardIndex, read_shard
from mimdit.conditioner.estimate import ToneCurve, tone_statistics
from mimdit.routing.router import router_features

GROUPS = ("00Clean", "05Noise", "08Haze", "09Lowlight_Haze", "13Rain_Haze", "14Lowlight")
POWERS = (0.0, 0.4, 1.0, 2.0)


def load(folder: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
    """Return normalized statistics of the full images ``[N, S]``, the gate's first; ``lq`` and ``gt`` ``[N, 3, h, w]``; and groups.

    ``lq`` and ``gt`` have a quarter of the images' size and values in -1..1.
    """
    index = ShardIndex.load(folder)
    statistics, small, groups = [], [], []
    for shard in index.shards:
        for sample in read_shard(index.path(shard), samples=shard.samples):
            pair = decode_pair(sample)
            lq, gt = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in (pair.lq, pair.gt))
            statistics.append(torch.cat([router_features(lq), tone_statistics(lq)], dim=1))
            small.append(nn.functional.avg_pool2d(torch.stack([lq, gt], dim=1)[0], 4))
            groups.append(shard.group)
    statistics = torch.cat(statistics)
    return (statistics - statistics.mean(0)) / statistics.std(0), *torch.stack(small, dim=1), groups


def corrected(network: nn.Module, statistics: torch.Tensor, lq: torch.Tensor) -> torch.Tensor:
    """Return ``lq`` plus the tone curve that the network predicts."""
    coefficients = network(statistics).unflatten(1, (len(POWERS), 3))[..., None, None]
    unit = ((lq + 1) / 2).clamp(0, 1)
    return lq + sum(coefficients[:, j] * ToneCurve._power(unit, p) for j, p in enumerate(POWERS))


def train(statistics: torch.Tensor, lq: torch.Tensor, gt: torch.Tensor, steps: int) -> nn.Module:
    """Fit a network of two hidden layers with the loss of the estimate head."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(statistics.shape[1], 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 3 * len(POWERS)))
    nn.init.zeros_(network[-1].weight)
    nn.init.zeros_(network[-1].bias)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(lq), (64,))
        error = (corrected(network, statistics[rows], lq[rows]) - gt[rows]).square()
        loss = (error + 1e-6).sqrt().mean() + (error.mean(dim=(1, 2, 3)) + 1e-6).sqrt().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network


def psnr(images: torch.Tensor, truth: torch.Tensor) -> float:
    """Return mean PSNR in dB, capped at 50 per image: at a quarter of the size even noise mostly averages out."""
    return float((-10 * ((images.clamp(-1, 1) - truth).square().mean(dim=(1, 2, 3)) / 4 + 1e-5).log10()).mean())


def main() -> None:
    """Train both, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="folder of training shards")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--json", help="file to write")
    arguments = parser.parse_args()
    statistics, lq, gt, groups = load(arguments.folder)
    held_out = torch.arange(len(groups)) % 7 == 0
    table = {}
    for name, columns in (("mean, log-std", 6), ("with tone_statistics", statistics.shape[1])):
        network = train(statistics[~held_out, :columns], lq[~held_out], gt[~held_out], arguments.steps)
        with torch.no_grad():
            for group in GROUPS:
                rows = held_out & torch.tensor([g == group for g in groups])
                row = table.setdefault(group, {"images": int(rows.sum()), "input": psnr(lq[rows], gt[rows])})
                row[name] = psnr(corrected(network, statistics[rows, :columns], lq[rows]), gt[rows])
    print("| group | " + " | ".join(next(iter(table.values()))) + " |\n|---" + "|---:" * 4 + "|")
    for group, row in table.items():
        print(f"| {group} | " + " | ".join(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()) + " |")
    write_figures(arguments.json, {"steps": arguments.steps, "psnr": table})


if __name__ == "__main__":
    main()
