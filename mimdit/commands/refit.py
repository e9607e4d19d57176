"""``mimdit checkpoint refit``: a better identification for finished weights, in minutes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from datamodules.collation import collate
from datamodules.pairs import open_pairs
from datamodules.shards import ShardStore
from mimdit.core.batch import Batch
from mimdit.core.rng import keyed_generator
from mimdit.distributed.loading import load_restorer
from mimdit.evaluation.identification import average_precision
from mimdit.restorer.identification import check_identifies
from mimdit.restorer.refitting import FitOptions, collect, fit_head, refitted

_HELD_OUT = 0.1
"""Fraction of the images that are only scored."""


def refit(
    checkpoint: str,
    data: str,
    folder: str,
    *,
    images: int = 6000,
    cleaned_share: float = 0.3,
    members: int = 3,
    width: int = 128,
    epochs: int = 40,
    dropout: float = 0.5,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
) -> None:
    """Fit the identification of finished weights anew and write them as a folder.

    The new head also reads statistics of the image. Everything else stays as it is. A tenth of the images is held out and scored.

    Args:
        checkpoint: A checkpoint of mimdit fit, a restorer's folder, or embedded.
        data: Training shards, or a folder of pairs.
        folder: The folder to write.
        images: Maximum number of images, drawn at random.
        cleaned_share: Share of the noisy and JPEG-compressed images that are also shown without that, 0 to 1.
        members: Networks whose mean is the new head.
        width: Inner width of each network.
        epochs: Passes over the images.
        dropout: Fraction of the inner values that is left out at random while fitting; of the inputs, a third of that.
        lr: Learning rate at the start; it falls linearly to 0.
        weight_decay: Weight decay of AdamW.
        seed: Seed of the draw of images, of the first weights and of dropout.

    Raises:
        ValueError: The weights do not identify or their latents are not pixels, there are too few images, or an option is out of range.
    """
    options = FitOptions(members=members, width=width, epochs=epochs, dropout=dropout, lr=lr, weight_decay=weight_decay, seed=seed)
    if not 0 <= cleaned_share <= 1:
        raise ValueError(f"cleaned_share={cleaned_share} is outside 0..1")
    restorer = load_restorer(checkpoint)
    check_identifies(restorer)
    examples = collect(restorer, _draw(data, images, seed), cleaned_share=cleaned_share, seed=seed)
    held_out = round(_HELD_OUT * len(examples.inputs_IF))
    if held_out < 1:
        raise ValueError(f"{data} gave {len(examples.inputs_IF)} images; give at least 10, better thousands")
    fitting, scored = examples.split(held_out)
    head = fit_head(fitting, options)
    with torch.no_grad():
        found = average_precision(head.read(scored.inputs_IF), scored.degradation_IA)
    print(f"{len(fitting.inputs_IF)} images fitted, {held_out} held out: mean average precision {found.mean:.3f}")
    print(", ".join(f"{atom} {value:.3f}" for atom, value in found.of_atoms.items()))
    refitted(restorer, head).save_pretrained(Path(folder))
    print(f"wrote {folder}")


def _draw(data: str, images: int, seed: int) -> Iterator[Batch]:
    """Yield at most ``images`` pairs, one by one, in an order that the seed gives."""
    pairs = open_pairs(data, ShardStore())
    order = torch.randperm(len(pairs), generator=keyed_generator(seed, "refit order"))[:images]
    for number in tqdm(order.tolist(), desc="reading", unit="image"):
        yield collate([pairs[number]])
