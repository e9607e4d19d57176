"""``mimdit export``: a training checkpoint as a folder of weights for inference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from datamodules.collation import collate
from datamodules.pairs import open_pairs
from datamodules.shards import ShardStore
from mimdit.backbone.dit import DiTBackbone
from mimdit.backbone.int8 import is_int8
from mimdit.conditioner.int8 import is_quantized, quantize_experts
from mimdit.conditioner.moe_conditioner import Decisions
from mimdit.conditioner.pruning import prune
from mimdit.core.hub import CARD
from mimdit.distributed.loading import load_trained
from mimdit.evaluation.metrics import PSNR_OF_IDENTICAL, psnr
from mimdit.evaluation.results import read_results
from mimdit.restorer.model_card import CardFacts, Measured, write_model_card
from mimdit.restorer.pipeline import MiMDiTPipeline
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.saving import SETTINGS
from mimdit.restorer.steering import MeasuredGates
from mimdit.routing.utilization import UtilizationCounts, utilization
from mimdit.weights import NAMED

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def export(
    checkpoint: str,
    folder: str,
    average: bool = True,
    *,
    complete: bool = False,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    data: str | None = None,
    images: int = 84,
    experts: int | None = None,
    int8: bool = False,
    license: str | None = None,
    trained_on: str | None = None,
    datasets: list[str] | None = None,
    results: str | None = None,
) -> None:
    """Write a checkpoint's weights as a folder that from_pretrained reads.

    A backbone becomes a diffusers folder, a restorer a folder with the averaged weights of its conditioner (and of its backbone if
    trained). Of a backbone with adapters, only the adapters are written, in fp32, in the format of diffusers.

    Args:
        checkpoint: A checkpoint of ``mimdit fit``, a single file or a sharded folder, a restorer's folder, or ``embedded`` or ``paper`` for
            the weights of the package.
        folder: The folder to write.
        average: If true, write a restorer's averaged weights; if false, the weights of the last step.
        complete: Also write the frozen backbone, so that the folder needs nothing else and diffusers reads it as a pipeline.
        dtype: Precision in which a backbone is written; the conditioner stays in fp32.
        data: Validation shards, or a folder of pairs, to measure a restorer on: its quality, the use of its experts, and the effect of
            each degradation on its gates, which the folder stores for --steer haze=0.
        images: Maximum number of pairs of data to measure on.
        experts: Sub-experts to keep in each block and group, those that data used most; prints the loss in quality.
        int8: Store the linear experts in int8, and with complete also the backbone's linear layers, which then compute in dtype (torchao);
            with data, prints the loss in quality.
        license: License of the weights for the folder's model card, as the Hugging Face hub names it, such as apache-2.0.
        trained_on: Description of the training data for the model card.
        datasets: Repositories of the training data on the hub for the model card, owner/name; repeat the option for several.
        results: Folder with the results.json of a test of these weights, such as the run's, for the model card.

    Raises:
        ValueError: The checkpoint does not suit the options, experts is given without data, or results holds none.
    """
    test_sets = {} if results is None else read_results(Path(results)).summaries
    module, name = _load(checkpoint)
    if not isinstance(module, Restorer):
        if complete or int8 or any(option is not None for option in (data, experts, license, trained_on, datasets, results)):
            others = "complete, data, experts, int8 and the model card's license, trained_on, datasets and results"
            raise ValueError(f"{checkpoint} holds a {name}; {others} are for restorers")
        module.save_pretrained(folder, dtype=_DTYPES[dtype])
        print(f"wrote {folder} ({name})")
        return
    if experts is not None and data is None:
        raise ValueError("experts needs data, such as validation shards, to measure which sub-experts are used most")
    if is_int8(module.backbone.transformer) or is_quantized([*module.conditioner.state_dict()]):
        raise ValueError(f"{checkpoint} is int8 already; export the one it was made from")
    if average:
        module.ema.adopt()
    module = module.with_conditioner(module.conditioner)
    if complete:
        module.backbone.round_weights(_DTYPES[dtype])  # measure the weights as they are written
    module, found = _compressed(module, data, images, experts, int8=int8, dtype=_DTYPES[dtype] if complete else None)
    written = MiMDiTPipeline(module) if complete else module
    written.save_pretrained(folder, dtype=_DTYPES[dtype])
    measured = None if found is None else found.quality
    facts = CardFacts(license=license, trained_on=trained_on, datasets=datasets or (), measured=measured, test_sets=test_sets)
    if not write_model_card(Path(folder), module, facts=facts):
        print(f"kept {Path(folder) / CARD}, which may describe earlier weights; delete it for a new one")
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    print(f"wrote {folder} ({size / 2**20:.1f} MiB)")


def _load(checkpoint: str) -> tuple[DiTBackbone | Restorer, str]:
    if checkpoint in NAMED or (Path(checkpoint) / SETTINGS).is_file():
        return Restorer.from_pretrained(checkpoint), "folder"
    return load_trained(checkpoint)


def _compressed(
    restorer: Restorer, data: str | None, images: int, experts: int | None, *, int8: bool, dtype: torch.dtype | None
) -> tuple[Restorer, _Measurement | None]:
    """Return the restorer, measured on ``data``, pruned to ``experts`` and in int8 as far as these are given, and its last measurement."""
    found = None
    if data is not None:
        restorer, found = _pruned_and_measured(restorer, data, images, experts)
    if int8:
        restorer = _quantized(restorer, dtype)
        if data is not None:
            found = _measure(restorer, data, images, "measuring again")
            print(f"int8: {found.quality.after:.2f} dB")
    return restorer, found


def _quantized(restorer: Restorer, dtype: torch.dtype | None) -> Restorer:
    """Return the restorer with int8 experts and, if ``dtype`` is given, an int8 backbone that computes in it."""
    quantize_experts(restorer.conditioner)
    if dtype is not None:
        restorer.backbone.quantize(dtype)
    return restorer.with_conditioner(restorer.conditioner)


def _pruned_and_measured(restorer: Restorer, data: str, images: int, experts: int | None) -> tuple[Restorer, _Measurement]:
    """Return the restorer with its measured gates, pruned to ``experts`` if given, and its measurement; print the measurements."""
    before = after = _measure(restorer, data, images, "measuring")
    print(f"{data}: {before.quality.after:.2f} dB")
    if experts is not None:
        stored = restorer.conditioner.parameter_counts().stored
        pruned = prune(restorer.conditioner, before.load_MGE, experts)
        lost = float(1 - before.load_MGE.topk(experts, dim=-1).values.sum(dim=-1).mean())
        restorer = restorer.with_conditioner(pruned)
        after = _measure(restorer, data, images, "measuring again")
        psnr_after, change = after.quality.after, after.quality.after - before.quality.after
        print(
            f"kept {experts} sub-experts of each group, {100 * lost:.1f} % of the choices were of others: {psnr_after:.2f} dB, "
            f"{change:+.2f}; the conditioner has {pruned.parameter_counts().stored:,} weights instead of {stored:,}"
        )
    restorer.measured_gates = after.gates
    return restorer, after


@dataclass(frozen=True)
class _Measurement:
    """Quality of a restorer on pairs, the use of its experts, and its gates.

    Attributes:
        quality: PSNR before and after.
        load_MGE: Use of the sub-experts ``[M, G, E]`` as shares of each gate's choices.
        gates: Mean gates of each degradation.
    """

    quality: Measured
    load_MGE: torch.Tensor
    gates: MeasuredGates


def _measure(restorer: Restorer, data: str, images: int, title: str) -> _Measurement:
    """Restore the first ``images`` pairs of shards or of a folder, which take the degradation groups in turn.

    Args:
        restorer: The restorer.
        data: Shards, or a folder of pairs.
        images: Maximum number of images to restore.
        title: Title of the progress bar.

    Raises:
        ValueError: There are no pairs.
    """
    pairs = open_pairs(data, ShardStore())
    if not len(pairs):
        raise ValueError(f"{data} holds no pairs; give validation shards, or a folder of pairs")
    counts, records, scores, before = UtilizationCounts(), [], [], []
    for number in tqdm(range(min(images, len(pairs))), desc=title):
        batch, seen = collate([pairs[number]]), list[Decisions]()
        assert "lq" in batch and "gt" in batch  # pairs are images, not cached latents
        restored = restorer.restore(batch["lq"], on_decisions=seen.append)
        scores.append(psnr(restored, batch["gt"]))
        before.append(psnr(batch["lq"], batch["gt"]))
        counts.update(seen[0].routing, batch["degradation"])
        records.append((seen[0].routing, batch["degradation"]))
    quality = _quality(data, torch.cat(before), torch.cat(scores))
    return _Measurement(quality, utilization(counts).load_MGE, MeasuredGates.over(records))


def _quality(data: str, before: torch.Tensor, after: torch.Tensor) -> Measured:
    """Return the means over the degraded images; those that equal their truths, `PSNR_OF_IDENTICAL`, would hide all others."""
    degraded = before < PSNR_OF_IDENTICAL
    degraded = degraded if degraded.any() else torch.ones_like(degraded)
    return Measured(data, int(degraded.sum()), float(before[degraded].mean()), float(after[degraded].mean()))
