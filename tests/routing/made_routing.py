"""Routing records made of random or given logits, without a model."""

import torch

from mimdit.routing.router import decide
from mimdit.routing.routing import Gates, Routing


def made_routing(
    images: int, *, blocks: int = 2, experts: int = 4, top_k: int = 2, groups: tuple[str, ...] = ("spatial", "se"), seed: int = 0
) -> Routing:
    """Independent random decisions of every gate."""
    generator = torch.Generator().manual_seed(seed)
    inter = torch.randn(blocks, images, len(groups), generator=generator)
    intra = torch.randn(blocks, len(groups), images, experts, generator=generator)
    return routing_of(inter, intra, top_k=top_k, groups=groups)


def routing_of(inter_MBG: torch.Tensor, intra_MGBE: torch.Tensor, *, top_k: int, groups: tuple[str, ...]) -> Routing:
    """The record of given logits: dense over groups, ``top_k`` inside."""
    blocks, num_groups, images, _ = intra_MGBE.shape
    return Routing(decide(inter_MBG, num_groups), decide(intra_MGBE, top_k), torch.zeros(blocks, images, 2), groups)


def chosen_routing(choices_B: list[int], experts: int) -> Routing:
    """One block, one group, one choice per image, as named."""
    logits = torch.full((1, 1, len(choices_B), experts), -1.0)
    logits[0, 0, range(len(choices_B)), choices_B] = 1.0
    return routing_of(torch.zeros(1, len(choices_B), 1), logits, top_k=1, groups=("swin",))


def images_of(routing: Routing, part: slice) -> Routing:
    """Some of the images of a record."""
    cut = lambda gates, axis: Gates(*(t.narrow(axis, part.start, part.stop - part.start) for t in vars(gates).values()))  # noqa: E731
    features = routing.features_MBF[:, part]
    return Routing(cut(routing.inter, 1), cut(routing.intra, 2), features, routing.groups)
