"""Pictures of a few samples: ImageGrid on TensorBoard after validations, Showcase as a file after a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from callbacks.loggers import tensorboard_writer
from callbacks.sample_picker import SpreadOverGroups
from mimdit.core.files import replace_when_whole
from mimdit.plots.image_strips import compare_with_truth, draw_strips, readable_group


class ImageGrid(L.Callback):
    """Log ``images/<group>``: input, estimate (if any), output and truth of a few fixed validation images side by side.

    They are spread over the degradation groups and chosen by key; in a distributed run from the share of rank 0. Captions give the PSNR.
    The sanity check before training is left out. Not in the paper.

    Args:
        every_n_validations: Record at every n-th validation, beginning with the first.
        max_images: Maximum number of images per validation.
        side: Side of a picture in pixels; the central square of an image is shown at this size.

    Raises:
        ValueError: ``every_n_validations`` or ``max_images`` is below 1, or ``side`` below 16.
    """

    def __init__(self, every_n_validations: int = 1, max_images: int = 8, side: int = 256) -> None:
        if every_n_validations < 1:
            raise ValueError(f"every_n_validations={every_n_validations} of ImageGrid must be at least 1; 1 records every validation")
        _check_side(side, "ImageGrid")
        self.every_n_validations, self.max_images, self.side = every_n_validations, max_images, side
        self._choice = SpreadOverGroups(max_images)
        self._num_validations = 0
        self._active = False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Decide if this validation is recorded."""
        self._choice = SpreadOverGroups(self.max_images)
        due = self._num_validations % self.every_n_validations == 0
        self._active = due and not trainer.sanity_checking and tensorboard_writer(trainer) is not None
        self._num_validations += not trainer.sanity_checking

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Draw the samples of the batch that belong to the choice."""
        if not self._active or not isinstance(outputs, Mapping) or "restored" not in outputs:
            return
        for index, (group, key) in enumerate(zip(batch["group"], batch["key"])):
            if self._choice.wants(group, key):
                images = {"input": batch["lq"], "estimate": outputs.get("estimate"), "output": outputs["restored"]}
                images = {name: None if image is None else image[index] for name, image in images.items()}
                self._choice.add(group, key, compare_with_truth(f"{group}   {key}", images, batch["gt"][index], self.side))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write one picture per sample, which gets its own card with a step slider; two images per row fill a card."""
        writer = tensorboard_writer(trainer)
        if not self._active or writer is None:
            return
        seen: dict[str, int] = {}
        for group, _, strip in self._choice.chosen():
            seen[group] = seen.get(group, 0) + 1
            tag = f"images/{group}" if seen[group] == 1 else f"images/{group}_{seen[group]}"
            writer.add_image(tag, np.asarray(draw_strips([strip], columns=2)), trainer.global_step, dataformats="HWC")

    def state_dict(self) -> dict[str, Any]:
        """Return the number of validations so far, so that a resumed run records at the same ones."""
        return {"num_validations": self._num_validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of validations."""
        self._num_validations = state_dict["num_validations"]


class Showcase(L.Callback):
    """Write input, output and truth of a few test images of different degradation groups into one picture at the end of the test.

    The images are chosen by key, not by their scores; in a distributed run from the share of rank 0. Not in the paper.

    Args:
        path: PNG file to write; None for ``restored.png`` in the trainer's ``default_root_dir``.
        max_images: Maximum number of test images.
        groups: Names of the degradation groups to show; empty or None for all, evenly spread.
        side: Side of a picture in pixels; the central square of an image is shown at this size.
        per_line: Test images side by side.

    Raises:
        ValueError: ``max_images`` or ``per_line`` is below 1, or ``side`` below 16.
    """

    def __init__(
        self, path: str | None = None, max_images: int = 8, groups: list[str] | None = None, side: int = 256, per_line: int = 2
    ) -> None:
        _check_side(side, "Showcase")
        if per_line < 1:
            raise ValueError(f"per_line={per_line} of Showcase must be at least 1; 1 puts each test image on its own line")
        self.path, self.max_images, self.groups, self.side, self.per_line = path, max_images, groups, side, per_line
        self._choice = SpreadOverGroups(max_images)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a new choice."""
        self._choice = SpreadOverGroups(self.max_images)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Draw the samples of the batch that belong to the choice."""
        if not trainer.is_global_zero or not isinstance(outputs, Mapping) or "restored" not in outputs:
            return
        for index, (group, key) in enumerate(zip(batch["group"], batch["key"])):
            if (not self.groups or group in self.groups) and self._choice.wants(group, key):
                images = {"input": batch["lq"][index], "output": outputs["restored"][index]}
                truth = None if batch.get("gt") is None else batch["gt"][index]
                self._choice.add(group, key, compare_with_truth(readable_group(group), images, truth, self.side, digits=1))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw and write the picture."""
        chosen = self._choice.chosen()
        if not trainer.is_global_zero or not chosen:
            return
        path = Path(self.path) if self.path is not None else Path(trainer.default_root_dir) / "restored.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet = draw_strips([strip for _, _, strip in chosen], per_line=self.per_line)
        with replace_when_whole(path) as temporary:
            sheet.save(temporary, format="PNG", optimize=True)
        rank_zero_info(f"Showcase: {len(chosen)} test images are in {path}")


def _check_side(side: int, callback: str) -> None:
    if side < 16:
        raise ValueError(f"side={side} of {callback} must be at least 16 pixels; 256 is usual")
