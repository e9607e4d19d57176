"""Model card of an exported folder: README.md with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

from mimdit.core.files import replace_when_whole
from mimdit.core.hub import CARD
from mimdit.core.markdown import markdown_row
from mimdit.restorer.saving import BACKBONE

if TYPE_CHECKING:
    from mimdit.restorer.restorer import Restorer

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


@dataclass(frozen=True)
class CardFacts:
    """Statements of a model card that the weights do not hold.

    Attributes:
        license: License of the weights, as the hub names it, such as ``apache-2.0``; None to leave it open.
        trained_on: Description of the training data.
        datasets: Repositories of the training data on the hub, ``owner/name``.
        measured: Quality measured at the export.
        test_sets: Means of each test set, as `mimdit.evaluation.results.read_results` gives them.
    """

    license: str | None = None
    trained_on: str | None = None
    datasets: Sequence[str] = ()
    measured: Measured | None = None
    test_sets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def write_model_card(folder: Path, restorer: Restorer, *, title: str | None = None, facts: CardFacts | None = None) -> bool:
    """Write ``README.md`` to a restorer's folder, unless there is one, which may have been edited; return true if it was written.

    Args:
        folder: The folder.
        restorer: The restorer in it.
        title: Repository of the model; None for the folder's name.
        facts: Further statements.
    """
    if (folder / CARD).exists():
        return False
    facts = facts or CardFacts()
    base = _base_model(restorer, folder)
    metadata = {"license": facts.license, "tags": TAGS, "datasets": [*facts.datasets] or None, "base_model": base}
    data = ModelCardData(library_name="mimdit", pipeline_tag="image-to-image", **metadata)
    counts = restorer.conditioner.parameter_counts()
    text = f"""---
{data.to_yaml()}
---

# {title or folder.resolve().name}

Image restoration by a diffusion transformer that a mixture of experts steers (MiM-DiT, arXiv 2603.02710).

```python
from mimdit import MiMDiTPipeline

MiMDiTPipeline.from_pretrained("{title or "owner/name"}")(image).images[0]
```

The conditioner has {counts.stored:,} parameters, of which {counts.active:,} are active for one image. {_sampling(restorer)}
{_backbone(restorer, folder)}

## Intended use

Restoring photographs with haze, blur, noise, JPEG blocks, rain, raindrops, darkness, or several of them. Compare before you keep a result:
a restoration can shift tones or invent detail. Not for forensics, medicine, or any use where that does harm.

## Limits

A restorer learns the degradations of its training data. On others, and on photographs that need nothing, it may do harm, which scores on
data like its training's do not show. It does not enlarge images, and it does not fill in what is missing.

## Training data

{_training_data(facts)}

## License

{f"`{facts.license}`" if facts.license else _UNKNOWN}

## Results

{_results(facts)}
"""
    with replace_when_whole(folder / CARD) as path:
        ModelCard(text).save(path)
    return True


def _sampling(restorer: Restorer) -> str:
    if restorer.flow.steps == 0 and restorer.flow.start == "estimate":
        return "The result is the conditioner's own estimate; the transformer does not run."
    return f"Sampling starts from `{restorer.flow.start}` and takes {restorer.flow.steps} steps."


def _backbone(restorer: Restorer, folder: Path) -> str:
    frozen = restorer.backbone.frozen_identity.get("transformer")
    if frozen is None or (folder / BACKBONE).is_dir():
        return "The folder holds the transformer too."
    return f"The transformer is not in the folder: it is `{frozen['source']}`."


def _base_model(restorer: Restorer, folder: Path) -> str | None:
    """Return the hub's repository of the transformer, if it is not in the folder and comes from the hub, and so has a revision."""
    frozen = restorer.backbone.frozen_identity.get("transformer")
    if frozen is None or (folder / BACKBONE).is_dir():
        return None
    return frozen["source"] if frozen["revision"] is not None else None


def _training_data(facts: CardFacts) -> str:
    links = ", ".join(f"[{name}](https://huggingface.co/datasets/{name})" for name in facts.datasets)
    return "\n\n".join(part for part in (facts.trained_on, links and f"Data sets: {links}.") if part) or _UNKNOWN


def _results(facts: CardFacts) -> str:
    """Return the tables of results, or a sentence where there are none."""
    parts = []
    if facts.measured is not None:
        cells = [f"`{Path(facts.measured.data).name}`", str(facts.measured.images)]
        cells += [f"{facts.measured.before:.2f}", f"{facts.measured.after:.2f}"]
        parts.append(_table(["pairs", "images", "PSNR of the input, dB", "of the result, dB"], [cells]))
    if facts.test_sets:
        metrics = [*dict.fromkeys(name for means in facts.test_sets.values() for name in means["mean_of_images"].get("output", {}))]
        heads = ["test set", "images", *(f"{metric} of the {of}" for metric in metrics for of in ("input", "result"))]
        rows = [[name, *_scores(summary["mean_of_images"], metrics)] for name, summary in facts.test_sets.items()]
        parts.append(f"Means of images in a test of the weights that were exported:\n\n{_table(heads, rows)}")
    return "\n\n".join(parts) or "Not measured (`mimdit export --data PAIRS` measures, `--results RUN` takes those of a test)."


def _scores(means: Mapping[str, Any], metrics: list[str]) -> list[str]:
    values = (means.get(side, {}).get(metric) for metric in metrics for side in ("input", "output"))
    return [str(means["images"]), *("-" if value is None else f"{value:.{2 if abs(value) >= 10 else 4}f}" for value in values)]


def _table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table whose first column is words and whose others are numbers."""
    rule = f"|---{'|---:' * (len(heads) - 1)}|"
    return "\n".join([markdown_row(heads), rule, *map(markdown_row, rows)])
