"""WriteRestored: write the images that ``mimdit predict`` restores as PNG files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import lightning as L
import torch
from PIL import Image

from mimdit.core.files import replace_when_whole


class WriteRestored(L.Callback):
    """Write ``<folder>/<key>.png`` in 8 bits for every image of the predict set; a file is whole or absent.

    ``mimdit predict`` restores with `Restorer.restore`, as ``mimdit restore`` and the pipeline do. With ``--return_predictions=false`` no
    image is kept in memory. Not in the paper.

    Args:
        folder: Folder to write to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Write the batch.

        Raises:
            ValueError: A key leads out of the folder.
        """
        for key, image in zip(batch["key"], outputs):
            target = self.folder / f"{key}.png"
            if not target.resolve().is_relative_to(self.folder.resolve()):
                raise ValueError(f"the key {key!r} leads out of {self.folder}; write the shards anew with keys that are plain names")
            target.parent.mkdir(parents=True, exist_ok=True)
            with replace_when_whole(target) as path:
                path.write_bytes(_png(image))


def _png(image: torch.Tensor) -> bytes:
    pixels = (image.float() * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()
