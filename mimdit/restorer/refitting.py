"""Refitting of the identification on a finished conditioner: minutes, not a training. Not in the paper.

While a conditioner trains, its head sees crops of features that keep changing, a few passes long. Here each image's features are computed
once, whole, and small networks with dropout read them for many epochs. Their mean is again one `IdentificationHead`.

Shape legend: I images, F inputs of the head, A atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from mimdit.conditioner.identification import IdentificationHead, normalized
from mimdit.conditioner.image_statistics import NUM_STATISTICS, image_statistics
from mimdit.conditioner.moe_conditioner import MoEConditioner
from mimdit.core.batch import ATOMS, Batch
from mimdit.core.rng import keyed_generator
from mimdit.restorer.cleaned import CLEANED
from mimdit.restorer.correction import corrected
from mimdit.restorer.inference import Restoration
from mimdit.restorer.restorer import Restorer
from mimdit.training.losses import identify_loss

_SMALLEST_SPREAD = 1e-3
_BATCH_SIZE = 64


@dataclass(frozen=True)
class Examples:
    """Inputs of an identification head with statistics, ``inputs_IF``, and multi-hot degradations, ``degradation_IA``."""

    inputs_IF: torch.Tensor
    degradation_IA: torch.Tensor

    def split(self, held_out: int) -> tuple[Examples, Examples]:
        """Return all but the last ``held_out`` images, and those."""
        count = len(self.inputs_IF) - held_out
        first, last = (Examples(self.inputs_IF[part], self.degradation_IA[part]) for part in (slice(count), slice(count, None)))
        return first, last


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit: networks, inner width, epochs, dropout after the first layer, first learning rate, weight decay and seed."""

    members: int = 3
    width: int = 128
    epochs: int = 40
    dropout: float = 0.5
    lr: float = 1e-3
    weight_decay: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("members", "width", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1")


@torch.no_grad()
def collect(restorer: Restorer, batches: Iterable[Batch], *, cleaned_share: float = 0.0, seed: int = 0) -> Examples:
    """Compute what the head reads for degraded images, and for some without the fine part of their correction.

    Args:
        restorer: A restorer with an identification and pixel latents.
        batches: Batches of one size each.
        cleaned_share: Probability with which a noisy or JPEG-compressed image is also an example without that, as ``only`` decides its
            tone.
        seed: Seed of the choice.

    Raises:
        ValueError: The restorer has no identification, or its latents are not pixels.
    """
    if restorer.conditioner.identification is None or not restorer.backbone.codec.pointwise:
        raise ValueError("refitting needs a conditioner with identify: true and a backbone whose latents are pixels")
    settings = restorer.sampling_settings(caution=0.0, steps=0)
    columns, inputs, labels = [ATOMS.index(atom) for atom in CLEANED], [], []
    for batch in batches:
        assert "lq" in batch
        images, degradation_BA = batch["lq"], batch["degradation"]
        found, restoration = _inputs(restorer, lambda images=images: Restoration(restorer, images, settings))
        inputs.append(found)
        labels.append(degradation_BA)
        drawn = torch.stack([torch.rand((), generator=keyed_generator(seed, "refit", key)) for key in batch["key"]])
        chosen = (drawn < cleaned_share) & (degradation_BA[:, columns].amax(dim=1) > 0)
        if chosen.any():
            ones_B = torch.ones(len(images))
            cleaned = corrected(images, restoration.sample().to(images.device), fine_B=ones_B, tone_B=0 * ones_B)[chosen]
            inputs.append(_inputs(restorer, lambda cleaned=cleaned: Restoration(restorer, cleaned, settings))[0])
            labels.append(degradation_BA[chosen].index_fill(1, torch.tensor(columns), 0))
    return Examples(torch.cat(inputs), torch.cat(labels))


def _inputs(restorer: Restorer, restore: Callable[[], Restoration]) -> tuple[torch.Tensor, Restoration]:
    """Return the inputs ``[B, F]`` that a head with statistics reads in a restoration, and the restoration."""
    seen: list[list[torch.Tensor]] = []
    head = restorer.conditioner.identification
    assert head is not None
    handle = head.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    try:
        restoration = restore()
    finally:
        handle.remove()
    return torch.cat([*(part.float().cpu() for part in seen[0]), image_statistics(restoration.degraded).cpu()], dim=1), restoration


def fit_head(examples: Examples, options: FitOptions) -> IdentificationHead:
    """Fit networks to examples by binary cross-entropy and return their mean as one head: the same result for the same seed.

    Args:
        examples: Examples.
        options: How to fit.
    """
    inputs_IF = examples.inputs_IF
    center, spread = inputs_IF.mean(dim=0), inputs_IF.std(dim=0) + _SMALLEST_SPREAD
    inputs_IF = normalized(inputs_IF, center, spread)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        members = [_fit_member(inputs_IF, examples.degradation_IA, options) for _ in range(options.members)]
    num_features = inputs_IF.shape[1] - NUM_STATISTICS
    head = IdentificationHead(num_features, width=options.members * options.width, statistics=True)
    state = {
        "center": center,
        "spread": spread,
        "network.0.weight": torch.cat([member.first.weight for member in members]),
        "network.0.bias": torch.cat([member.first.bias for member in members]),
        "network.2.weight": torch.cat([member.last.weight for member in members], dim=1) / len(members),
        "network.2.bias": torch.stack([member.last.bias for member in members]).mean(dim=0),
    }
    head.load_state_dict(state)
    return head.eval()


class _Member(nn.Module):
    """Network with dropout on normalized inputs ``[I, F]``; its logits are ``[I, A]``."""

    def __init__(self, num_inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.first, self.last, self.dropout = nn.Linear(num_inputs, width), nn.Linear(width, len(ATOMS)), dropout

    def forward(self, inputs_IF: torch.Tensor) -> torch.Tensor:
        inner = functional.silu(self.first(functional.dropout(inputs_IF, self.dropout / 3, self.training)))
        return self.last(functional.dropout(inner, self.dropout, self.training))


def _fit_member(inputs_IF: torch.Tensor, degradation_IA: torch.Tensor, options: FitOptions) -> _Member:
    """Fit one network on normalized inputs; the learning rate falls linearly to zero."""
    network = _Member(inputs_IF.shape[1], options.width, options.dropout)
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    steps = options.epochs * -(-len(inputs_IF) // _BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(options.epochs):
        for chosen in torch.randperm(len(inputs_IF)).split(_BATCH_SIZE):
            loss = identify_loss(network(inputs_IF[chosen]), degradation_IA[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network


def refitted(restorer: Restorer, head: IdentificationHead) -> Restorer:
    """Return a restorer for inference with another identification head; all other weights, settings and measured gates stay."""
    settings = {"identify": True, "identify_statistics": head.statistics, "identify_width": head.network[0].out_features}
    conditioner = MoEConditioner(**restorer.conditioner.config | settings)
    rest = {name: value for name, value in restorer.conditioner.state_dict().items() if not name.startswith("identification.")}
    conditioner.load_state_dict(rest | {f"identification.{name}": value for name, value in head.state_dict().items()})
    gates = restorer.measured_gates
    restorer = restorer.with_conditioner(conditioner.eval())
    restorer.measured_gates = gates
    return restorer
