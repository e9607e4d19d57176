"""Utilization of the experts: counts of the gates' decisions over a window of images, and statistics of those counts.

All counts are sums per class of degradation in one flat table: one all-reduce combines the windows of all ranks, and all statistics are
marginals of the same sums. Each gate's *decision* is counted, even in groups that a sparse gate over groups omits for that image. A class
is a distinct multi-hot vector, that is, one combination of atoms: FoundIR's twenty degradation groups and the clean image are twenty-one
different classes. Not in the paper.

Shape legend: M blocks, G expert groups, B images, E sub-experts, D classes, A atoms, W sums of one image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from mimdit.core.batch import ATOMS
from mimdit.routing.routing import Routing

UNUSED_SHARE = 0.1
"""Fraction of the uniform load 1 / E below which an expert counts as unused."""


class UtilizationCounts:
    """Sums over a window of images, in plain tensors on the routing's device; not buffers, which DDP overwrites with rank 0's.

    ``update`` neither synchronizes with the device nor copies to the host. The table is fp64, where counts are exact up to 2**53.

    Args:
        atoms: Names of the columns of the multi-hot vector; at most 10, because the table has a row for each of the 2**A combinations.

    Raises:
        ValueError: There are more than 10 atoms.
    """

    def __init__(self, atoms: Sequence[str] = ATOMS) -> None:
        if len(atoms) > 10:
            raise ValueError(f"{len(atoms)} atoms make {2 ** len(atoms)} combinations, too many to count; name at most 10")
        self.atoms = tuple(atoms)
        self.groups: tuple[str, ...] = ()
        self.shape_MGE = (0, 0, 0)
        self.table_DW: torch.Tensor | None = None

    def update(self, routing: Routing, degradation: torch.Tensor) -> None:
        """Add a micro-batch.

        Args:
            routing: The record of B images; no gradient is tracked.
            degradation: Multi-hot ``[B, A]``, 0 or 1.

        Raises:
            ValueError: The shape of ``degradation`` does not match the atoms or the routing's number of images.
        """
        images = routing.inter.probs.shape[1]
        if tuple(degradation.shape) != (images, len(self.atoms)):
            raise ValueError(
                f"degradation of shape {list(degradation.shape)} does not fit a routing of {images} images and {len(self.atoms)} atoms; "
                f"pass the multi-hot [B, A] of the same micro-batch"
            )
        with torch.no_grad():
            rows_BW = _image_rows(routing)
            if self.table_DW is None:
                self.table_DW = rows_BW.new_zeros(2 ** len(self.atoms), rows_BW.shape[1])
                blocks, groups, _, experts = routing.intra.probs.shape
                self.groups, self.shape_MGE = routing.groups, (blocks, groups, experts)
            powers_A = 2 ** torch.arange(len(self.atoms), device=rows_BW.device)
            codes_B = ((degradation.detach().to(rows_BW.device) > 0.5) * powers_A).sum(dim=1)
            self.table_DW.index_add_(0, codes_B, rows_BW)

    def all_reduce(self) -> None:
        """Sum the window over all ranks, in one collective that every rank must join; a no-op without torch.distributed."""
        if self.table_DW is not None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self.table_DW)

    def add(self, other: UtilizationCounts) -> None:
        """Add the sums of another window of the same routing."""
        if other.table_DW is None:
            return
        if self.table_DW is None:
            self.groups, self.shape_MGE = other.groups, other.shape_MGE
            self.table_DW = torch.zeros_like(other.table_DW)
        self.table_DW += other.table_DW

    def reset(self) -> None:
        """Begin a new window."""
        if self.table_DW is not None:
            self.table_DW.zero_()


@dataclass(frozen=True)
class Utilization:
    """Statistics of a window of counts; all tensors fp64 on the CPU.

    - ``groups``: labels of the G expert groups; ``images``: number of images in the window.
    - ``load_MGE``: f, the fraction of its gate's choices that an expert gets; sums to 1 over E.
    - ``probability_MGE``: P, mean probability before the selection.
    - ``max_violation_MG``: max n / mean n - 1, 0 when balanced (MaxVio, arXiv 2408.15664 eq. 4).
    - ``load_entropy_MG``: H(f) / log E, 1 when balanced; 1 for a single expert.
    - ``image_entropy_MG``: mean over images of H(p) / log E, 0 when every decision is certain; 0 for a single expert.
    - ``unused_MGE``: f < 0.1 / E.
    - ``gate_MG``, ``gate_entropy_M``: mean weights of the gates over groups, and mean per-image H / log G.
    - ``joint_DMGE``: hits per class; ``gate_DMG``: mean weights of the gates over groups per class.
    - ``information_MG``: normalized mutual information of class and expert; ``chance_MG``: its mean for independent variables.
    - ``classes``, ``class_images_D``: names of the D classes in the window, such as ``lowlight+haze``, and their numbers of images.
    """

    groups: tuple[str, ...]
    images: int
    load_MGE: torch.Tensor
    probability_MGE: torch.Tensor
    max_violation_MG: torch.Tensor
    load_entropy_MG: torch.Tensor
    image_entropy_MG: torch.Tensor
    unused_MGE: torch.Tensor
    gate_MG: torch.Tensor
    gate_entropy_M: torch.Tensor
    joint_DMGE: torch.Tensor
    gate_DMG: torch.Tensor
    information_MG: torch.Tensor
    chance_MG: torch.Tensor
    classes: tuple[str, ...]
    class_images_D: torch.Tensor

    @property
    def confusion_DMGE(self) -> torch.Tensor:
        """Fraction of each gate's choices for one class that each expert gets; sums to 1 over E."""
        return self.joint_DMGE / self.joint_DMGE.sum(dim=-1, keepdim=True)


def utilization(counts: UtilizationCounts) -> Utilization:
    """Compute the statistics of a window; over several ranks, reduce it first.

    Raises:
        ValueError: The window is empty.
    """
    if counts.table_DW is None or not counts.table_DW[:, -1].any():
        raise ValueError("the window of expert counts is empty: update it with at least one micro-batch first")
    table_DW, experts = counts.table_DW.cpu(), counts.shape_MGE[-1]
    seen = table_DW[:, -1].nonzero().flatten()
    table_DW = table_DW[seen]
    images_D = table_DW[:, -1]
    parts = _split(table_DW, counts.shape_MGE)
    images = images_D.sum()
    joint_DMGE, sums = parts["hits"], {name: part.sum(dim=0) for name, part in parts.items()}
    load_MGE = sums["hits"] / sums["hits"].sum(dim=-1, keepdim=True)
    information_MG, chance_MG = normalized_mutual_information(joint_DMGE.movedim(0, -2), images_D)
    return Utilization(
        groups=group_labels(counts.groups),
        images=int(images),
        load_MGE=load_MGE,
        probability_MGE=sums["probs"] / images,
        max_violation_MG=load_MGE.amax(dim=-1) * experts - 1,
        load_entropy_MG=relative_entropy(entropy(load_MGE), experts, single=1.0),
        image_entropy_MG=relative_entropy(sums["entropy"] / images, experts, single=0.0),
        unused_MGE=load_MGE < UNUSED_SHARE / experts,
        gate_MG=sums["gates"] / images,
        gate_entropy_M=relative_entropy(sums["gate_entropy"] / images, len(counts.groups), single=0.0),
        joint_DMGE=joint_DMGE,
        gate_DMG=parts["gates"] / images_D[:, None, None],
        information_MG=information_MG,
        chance_MG=chance_MG,
        classes=tuple(class_name(int(code), counts.atoms) for code in seen),
        class_images_D=images_D,
    )


def normalized_mutual_information(joint_DE: torch.Tensor, images_D: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mutual information of class and expert over ``min(H(D), H(E))``, and its mean under independence.

    A finite sample of independent variables has some mutual information. For one choice per image its mean is ``(D - 1)(E - 1) / 2N``
    (Miller 1955). With k different choices per image the hits of one image exclude each other, and the mean is ``(D - 1)(E - k) / 2kN``:
    the same expansion with the variance ``k f (1 - k f)`` of one image's hits, derived here. E counts only experts with a hit.
    Both values are 0 if there is only one class or one expert, and the chance level is at most 1.

    Args:
        joint_DE: Hits ``[..., D, E]``, k per image.
        images_D: Images of each class ``[D]``.

    Returns:
        Information and its chance level, each ``[...]`` in 0..1.
    """
    hits = joint_DE.sum(dim=(-2, -1), keepdim=True)
    joint = joint_DE / hits
    classes_D, experts_E = joint.sum(dim=-1), joint.sum(dim=-2)
    independent = classes_D[..., :, None] * experts_E[..., None, :]
    information = (torch.xlogy(joint, joint) - torch.xlogy(joint, independent)).sum(dim=(-2, -1)).clamp(min=0)
    chosen = hits[..., 0, 0] / images_D.sum()
    used = (experts_E > 0).sum(dim=-1)
    bias = (len(images_D) - 1) * (used - chosen).clamp(min=0) / (2 * chosen * images_D.sum())
    most = torch.minimum(entropy(classes_D), entropy(experts_E))
    # Rounding gives a constant distribution an entropy of about 1e-16, which counts as zero.
    informative = most > 1e-9
    most = torch.where(informative, most, 1.0)
    return (informative * information / most), (informative * bias / most).clamp(max=1)


def class_name(code: int, atoms: Sequence[str] = ATOMS) -> str:
    """Return the name of a combination of atoms from its bits, the first atom in the lowest bit; ``clean`` for 0."""
    return "+".join(atom for bit, atom in enumerate(atoms) if code >> bit & 1) or "clean"


def group_labels(groups: Sequence[str]) -> tuple[str, ...]:
    """Return distinct labels of groups; repeated kinds, as in a homogeneous Inter-MoE, are numbered."""
    return tuple(f"{name}{index}" if list(groups).count(name) > 1 else name for index, name in enumerate(groups))


def _image_rows(routing: Routing) -> torch.Tensor:
    """Return one row per image, fp64 ``[B, W]``: hits, probabilities, entropies, group weights, group entropy, and a one; see `_split`."""
    intra, inter = routing.intra, routing.inter
    hits_MGBE = torch.zeros_like(intra.probs).scatter_(-1, intra.indices, 1.0)
    blocks_MBW = torch.cat(
        [
            hits_MGBE.movedim(2, 1).flatten(2),
            intra.probs.movedim(2, 1).flatten(2),
            entropy(intra.probs).transpose(1, 2),
            inter.weights,
            entropy(inter.probs)[..., None],
        ],
        dim=-1,
    )
    rows_BW = blocks_MBW.transpose(0, 1).flatten(1).double()
    return torch.cat([rows_BW, rows_BW.new_ones(len(rows_BW), 1)], dim=1)


def _split(table_DW: torch.Tensor, shape_MGE: tuple[int, int, int]) -> dict[str, torch.Tensor]:
    """Return the table's columns by name, in the order of `_image_rows`."""
    num_blocks, *shape = shape_MGE
    size, num_groups = math.prod(shape), shape[0]
    blocks_DMW = table_DW[:, :-1].unflatten(1, (num_blocks, -1))
    hits, probs, image_entropy, gates, gate_entropy = blocks_DMW.split([size, size, num_groups, num_groups, 1], dim=-1)
    return {
        "hits": hits.unflatten(-1, shape),
        "probs": probs.unflatten(-1, shape),
        "entropy": image_entropy,
        "gates": gates,
        "gate_entropy": gate_entropy[..., 0],
    }


def entropy(probs: torch.Tensor) -> torch.Tensor:
    """Return the entropy, in nats, over the last axis."""
    return torch.special.entr(probs).sum(dim=-1)


def relative_entropy(nats: torch.Tensor, choices: int, *, single: float) -> torch.Tensor:
    """Return an entropy over its maximum ``log(choices)``; ``single`` where there is only one choice."""
    return nats / math.log(choices) if choices > 1 else torch.full_like(nats, single)
