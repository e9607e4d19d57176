"""Showcase: one picture of results that can be shown to people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from callbacks.sample_picker import SpreadOverGroups
from mimdit.core.files import replace_when_whole
from mimdit.evaluation.metrics import psnr
from mimdit.plots.image_strips import Strip, draw_strips, square


class Showcase(L.Callback):
    """Write input, output and truth of a few test images of different degradation groups into one picture at the end of the test.

    The images are chosen by key, not by how well they came out; in a distributed run from the share of rank 0. (ours)

    Args:
        path: The PNG to write; None for ``restored.png`` in the trainer's ``default_root_dir``.
        max_images: Most test images.
        groups: Names of the groups to show; empty or None for all, evenly spread.
        side: Pixels of a picture's side; the central square of an image is shown at this size.
        per_line: Test images beside each other.
    """

    def __init__(
        self, path: str | None = None, max_images: int = 8, groups: list[str] | None = None, side: int = 256, per_line: int = 2
    ) -> None:
        if side < 16 or per_line < 1:
            raise ValueError(f"side={side} must be at least 16 pixels and per_line={per_line} at least 1")
        self.path, self.max_images, self.groups, self.side, self.per_line = path, max_images, groups, side, per_line
        self._choice = SpreadOverGroups(max_images)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a new choice."""
        self._choice = SpreadOverGroups(self.max_images)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep pictures of the samples that belong to the choice."""
        if not trainer.is_global_zero or not isinstance(outputs, dict) or "restored" not in outputs:
            return
        for index, (group, key) in enumerate(zip(batch["group"], batch["key"])):
            if (not self.groups or group in self.groups) and self._choice.wants(group, key):
                self._choice.add(group, key, self._strip(outputs, batch, index))

    def _strip(self, outputs: dict, batch: Any, index: int) -> Strip:
        degraded, restored, truth = batch["lq"][index], outputs["restored"][index], batch["gt"][index]
        compared = {"input": degraded, "output": restored}
        captions = [f"{name}  {psnr(image[None], truth[None]).item():.1f} dB" for name, image in compared.items()]
        pictures = [square(image, self.side) for image in (degraded, restored, truth)]
        return Strip(readable_group(batch["group"][index]), pictures, [*captions, "truth"])

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw and write."""
        chosen = self._choice.chosen()
        if not trainer.is_global_zero or not chosen:
            return
        path = Path(self.path) if self.path is not None else Path(trainer.default_root_dir) / "restored.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet = draw_strips([strip for _, _, strip in chosen], per_line=self.per_line)
        with replace_when_whole(path) as temporary:
            sheet.save(temporary, format="PNG", optimize=True)
        rank_zero_info(f"Showcase: {len(chosen)} test images are in {path}")


def readable_group(name: str) -> str:
    """A group's name for people: ``09Lowlight_Haze`` is ``Lowlight + Haze``."""
    return " + ".join(name.lstrip("0123456789").split("_"))
