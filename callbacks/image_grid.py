"""ImageGrid: the same few validation images after every validation, on TensorBoard."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np

from callbacks.loggers import tensorboard_writer
from callbacks.sample_picker import SpreadOverGroups
from mimdit.evaluation.metrics import psnr
from mimdit.plots.image_strips import Strip, draw_strips, square


class ImageGrid(L.Callback):
    """Log ``images/<group>``: input, estimate (where there is one), output and truth of a few fixed validation images beside each other.

    They are spread over the degradation groups and chosen by key; in a distributed run from the share of rank 0. Captions give the PSNR.
    The sanity check before training is left out. (ours)

    Args:
        every_n_validations: Record at every n-th validation, beginning with the first.
        max_images: Most images per validation.
        side: Pixels of a picture's side; the central square of an image is shown at this size.
    """

    def __init__(self, every_n_validations: int = 1, max_images: int = 8, side: int = 256) -> None:
        if every_n_validations < 1 or side < 16:
            raise ValueError(f"every_n_validations={every_n_validations} must be at least 1 and side={side} at least 16")
        self.every_n_validations, self.max_images, self.side = every_n_validations, max_images, side
        self._choice = SpreadOverGroups(max_images)
        self._num_validations = 0
        self._active = False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Decide whether this validation is recorded."""
        self._choice = SpreadOverGroups(self.max_images)
        due = self._num_validations % self.every_n_validations == 0
        self._active = due and not trainer.sanity_checking and tensorboard_writer(trainer) is not None
        self._num_validations += not trainer.sanity_checking

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep pictures of the samples that belong to the choice."""
        if not self._active or not isinstance(outputs, dict) or "restored" not in outputs:
            return
        for index, (group, key) in enumerate(zip(batch["group"], batch["key"])):
            if self._choice.wants(group, key):
                self._choice.add(group, key, self._strip(outputs, batch, index))

    def _strip(self, outputs: dict, batch: Any, index: int) -> Strip:
        images = {"input": batch["lq"], "estimate": outputs.get("estimate"), "output": outputs["restored"], "truth": batch["gt"]}
        images = {name: image[index] for name, image in images.items() if image is not None}
        captions = [f"{name}  {psnr(image[None], images['truth'][None]).item():.2f} dB" for name, image in images.items()]
        captions[-1] = "truth"
        title = f"{batch['group'][index]}   {batch['key'][index]}"
        return Strip(title, [square(image, self.side) for image in images.values()], captions)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write one image a sample: TensorBoard has a slider over the steps for each, on a card that two pictures in a row fill."""
        if not self._active:
            return
        writer, seen = tensorboard_writer(trainer), {}
        for group, _, strip in self._choice.chosen():
            seen[group] = seen.get(group, 0) + 1
            tag = f"images/{group}" if seen[group] == 1 else f"images/{group}_{seen[group]}"
            writer.add_image(tag, np.asarray(draw_strips([strip], columns=2)), trainer.global_step, dataformats="HWC")

    def state_dict(self) -> dict[str, Any]:
        """The number of validations so far, so that a resumed run keeps the rhythm."""
        return {"num_validations": self._num_validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the number back."""
        self._num_validations = state_dict["num_validations"]
