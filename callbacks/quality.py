"""Quality: PSNR and SSIM by degradation group, for the output and for the degraded input beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_info

from mimdit.core.files import replace_when_whole
from mimdit.evaluation.metrics import PSNR_OF_IDENTICAL, psnr, ssim
from mimdit.evaluation.results import Row, summarize, unique_rows

_IMAGES = {"restored": "output", "estimate": "estimate", "residuals_zeroed": "residuals_zeroed", "gates_uniform": "gates_uniform"}


class Quality(L.Callback):
    """Score every image of validation and test on its 8-bit result (see `mimdit.evaluation.metrics`), over all ranks, each image once.

    Validation logs ``val/psnr_output``, ``val/psnr_input``, ``val/psnr_gain`` (output less input), ``val/psnr_estimate`` and the same of
    SSIM, averaged over images, where checkpoint callbacks can monitor them; and by group ``val_groups/<group>/…``, in a section of its own
    on TensorBoard's page. The test logs ``test/…`` and writes ``results.json``: ``groups``, ``average`` over images,
    ``average_over_groups``, ``left_out`` (see `mimdit.evaluation.results.summarize`) and ``settings``. (ours)

    Args:
        path: The JSON file that the test writes; None for ``results.json`` in the trainer's ``default_root_dir``.
        settings: What else to note under ``settings``.
    """

    def __init__(self, path: str | None = None, settings: dict[str, Any] | None = None) -> None:
        self.path, self.settings = path, settings or {}
        self._rows: list[Row] = []

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self._rows = []

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self._rows = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Score a batch; where the module restores nothing, do nothing."""
        self._rows += score_batch(outputs, batch)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Score a batch; where the module restores nothing, do nothing."""
        self._rows += score_batch(outputs, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the averages and each group's."""
        rows = gather_rows(self._rows)
        if not rows:
            return
        summary = summarize(rows)
        _log_scores(pl_module, "val", summary["average"])
        for name, scores in summary["groups"].items():
            _log_scores(pl_module, f"val_groups/{name}", scores)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the averages and write the table on rank 0."""
        rows = gather_rows(self._rows)
        if not rows:
            return
        results = summarize(rows) | {"settings": run_settings(trainer, pl_module) | self.settings}
        _log_scores(pl_module, "test", results["average"])
        if trainer.is_global_zero:
            path = Path(self.path) if self.path is not None else Path(trainer.default_root_dir) / "results.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_when_whole(path) as temporary:
                temporary.write_text(json.dumps(results, indent=2) + "\n")
            rank_zero_info(f"Quality: scores of {len(rows)} images are in {path}")


def score_batch(outputs: Any, batch: Any) -> list[Row]:
    """One row per image of a step's ``outputs``: PSNR and SSIM of the input and of each image that the step returned."""
    if not isinstance(outputs, dict) or "restored" not in outputs:
        return []
    images = {"input": batch["lq"]} | {name: outputs[key] for key, name in _IMAGES.items() if outputs.get(key) is not None}
    scores = {}
    for name, image in images.items():
        scores[f"psnr_{name}"] = psnr(image, batch["gt"]).tolist()
        scores[f"ssim_{name}"] = ssim(image, batch["gt"]).tolist()
    return [
        {"group": group, "key": key} | {name: values[index] for name, values in scores.items()}
        for index, (group, key) in enumerate(zip(batch["group"], batch["key"], strict=True))
    ]


def gather_rows(rows: list[Row]) -> list[Row]:
    """The distinct rows of all ranks, on every rank; a collective."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        gathered: list[list[Row]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(gathered, rows)
        rows = [row for part in gathered for row in part]
    return unique_rows(rows)


def _log_scores(pl_module: L.LightningModule, prefix: str, scores: dict[str, float]) -> None:
    """Log through the module, so that checkpoint callbacks see it; every rank has the same values already."""
    named = {name: value for name, value in scores.items() if name != "images"}
    if scores["psnr_input"] < PSNR_OF_IDENTICAL:
        named["psnr_gain"] = scores["psnr_output"] - scores["psnr_input"]
    for name, value in named.items():
        # The mean of equal values: it only tells Lightning that they are the same on all ranks.
        tag, on_bar = f"{prefix}/{name}", (prefix, name) == ("val", "psnr_output")
        pl_module.log(tag, torch.tensor(value, device=pl_module.device), sync_dist=True, prog_bar=on_bar)


def run_settings(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
    """What the numbers depend on, as far as the module tells: its seed and its sampler."""
    noted: dict[str, Any] = {"seed": getattr(pl_module, "seed", None), "ranks": trainer.world_size, "precision": str(trainer.precision)}
    if hasattr(pl_module, "flow"):
        plain = str | int | float | bool | None
        noted["sampler"] = {name: value for name, value in vars(pl_module.flow).items() if isinstance(value, plain)}
    return noted | {"checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path), "torch": torch.__version__}
