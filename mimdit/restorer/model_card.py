"""Model card of an exported folder: README.md with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from mimdit.core.files import replace_when_whole
from mimdit.restorer.restorer import Restorer

NAME = "README.md"
TAGS = ["image-restoration", "mixture-of-experts", "diffusion", "mim-dit"]
_UNKNOWN = "Not stated. Ask whoever trained it before you rely on it."


@dataclass(frozen=True)
class Measured:
    """PSNR in dB, a mean over the images that differ from their truths, before and after restoring.

    Attributes:
        data: Shards or folder of the pairs.
        images: Number of pairs.
        before: PSNR of the degraded images.
        after: PSNR of the restored images.
    """

    data: str
    images: int
    before: float
    after: float


def write_model_card(
    folder: Path, restorer: Restorer, *, license: str | None = None, trained_on: str | None = None, measured: Measured | None = None
) -> None:
    """Write ``README.md`` to a restorer's folder, unless there is one, which may have been edited.

    Args:
        folder: The folder.
        restorer: The restorer in it.
        license: License of the weights, as the hub names it, such as ``apache-2.0``; None to leave it open.
        trained_on: Description of the training data.
        measured: Measured quality.
    """
    if (folder / NAME).exists():
        return
    data = ModelCardData(library_name="mimdit", pipeline_tag="image-to-image", license=license, tags=TAGS)
    counts = restorer.conditioner.parameter_counts()
    text = f"""---
{data.to_yaml()}
---

# {folder.resolve().name}

Image restoration by a diffusion transformer that a mixture of experts steers (MiM-DiT, arXiv 2603.02710).

```python
from mimdit import MiMDiTPipeline

MiMDiTPipeline.from_pretrained("owner/name")(image).images[0]
```

The conditioner has {counts.stored:,} parameters, of which {counts.active:,} are active for one image. {_sampling(restorer)}
{_backbone(restorer, folder)}

## Intended use

Restoring photographs with haze, blur, noise, JPEG blocks, rain, raindrops, darkness, or several of them. Compare before you keep a result:
a restoration can shift tones or invent detail. Not for forensics, medicine, or any use where that does harm.

## Training data

{trained_on or _UNKNOWN}

## License

{f"`{license}`" if license else _UNKNOWN}

## Results

{_results(measured)}
"""
    with replace_when_whole(folder / NAME) as path:
        ModelCard(text).save(path)


def _sampling(restorer: Restorer) -> str:
    if restorer.flow.steps == 0 and restorer.flow.start == "estimate":
        return "The result is the conditioner's own estimate; the transformer does not run."
    return f"Sampling starts from `{restorer.flow.start}` and takes {restorer.flow.steps} steps."


def _backbone(restorer: Restorer, folder: Path) -> str:
    frozen = restorer.backbone.frozen_identity.get("transformer")
    if frozen is None or (folder / "backbone").is_dir():
        return "The folder holds the transformer too."
    return f"The transformer is not in the folder: it is `{frozen['source']}`."


def _results(measured: Measured | None) -> str:
    if measured is None:
        return "Not measured (`mimdit export --data PAIRS` measures)."
    cells = (f"`{Path(measured.data).name}`", str(measured.images), f"{measured.before:.2f}", f"{measured.after:.2f}")
    return f"| pairs | images | PSNR of the input, dB | of the result, dB |\n|---|---:|---:|---:|\n| {' | '.join(cells)} |"
