"""Score of the identification of degradations on the validation images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch

from mimdit.core.collectives import gather
from mimdit.evaluation.identification import average_precision


class Identification(L.Callback):
    """Log how well a restorer names the degradations of the validation images. Not in the paper (AutoDIR, arXiv 2310.10123, reports it).

    Validation logs ``val/identification_map``, the mean average precision over the degradations that some of the images have and others
    have not, for checkpoint callbacks to monitor; and that of each degradation as ``val_identification/<atom>``. All images of all ranks
    count, each once. Nothing is logged for a restorer that does not identify.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]] = {}

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget earlier images."""
        self._rows = {}

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the logits and the truth of a batch; do nothing if the module does not identify."""
        if not isinstance(outputs, Mapping) or outputs.get("identified") is None:
            return
        logits, truth = outputs["identified"].detach().float().cpu(), batch["degradation"].cpu()
        for index, image in enumerate(zip(batch["group"], batch["key"], strict=True)):
            self._rows[image] = logits[index], truth[index]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the average precision over all ranks' images."""
        rows = {image: row for part in gather(self._rows) for image, row in part.items()}
        if not rows:
            return
        logits, truth = (torch.stack(column) for column in zip(*(rows[image] for image in sorted(rows)), strict=True))
        score = average_precision(logits, truth)
        named = {f"val_identification/{atom}": value for atom, value in score.of_atoms.items()}
        if not math.isnan(score.mean):
            named["val/identification_map"] = score.mean
        for name, value in named.items():  # equal on all ranks; their mean declares that to Lightning
            pl_module.log(name, torch.tensor(value, device=pl_module.device), sync_dist=True)
