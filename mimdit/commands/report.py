"""``mimdit report``: the results of runs as tables and figures."""

from pathlib import Path

import torch
from PIL import Image

from mimdit.core.files import replace_when_whole
from mimdit.evaluation.report import Scores, load_published, make_tables, read_run
from mimdit.evaluation.report.ablation import ablation_table, read_variant
from mimdit.evaluation.report.rendering import RENDERERS
from mimdit.evaluation.report.table import differing_images
from mimdit.plots.expert_maps import Panel, draw_panels


def report(
    runs: list[str],
    *,
    output: str = "report",
    published: list[str] | None = None,
    ablation: bool = False,
) -> None:
    """Merge the results of runs into tables beside published figures, and draw which experts served which degradation.

    Writes report.md, report.tex and report.csv: one table for each benchmark and metric, groups in the paper's order, the mean of groups
    and that of images, best and second best marked. Published rows are those of benchmarks that are named alike (foundir, cdd11), each with
    its source. Where results hold the gates, routing/ gets a heat map for each run, benchmark and block.

    Args:
        runs: Folders that a test wrote results.jsonl to (or only results.json, of which the means are taken); name=folder names a row.
        output: Folder to write to.
        published: Further files of published figures; their form is that of mimdit/evaluation/report/published/foundir.yaml.
        ablation: Also put the table of what each run varies, by its saved config, on top.

    Raises:
        ValueError: A run has no results, or two have one name; or a file is not what it should be.
    """
    scores = [read_run(run) for run in runs]
    names = [each.name for each in scores]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two runs are called {', '.join(doubled)}; name them, such as first=runs/a second=runs/b")
    tables = make_tables(scores, load_published(published or []))
    remarks = [*dict.fromkeys(remark for each in scores for remark in each.remarks), *differing_images(tables)]
    texts = {"md": RENDERERS["md"](tables, remarks), "tex": RENDERERS["tex"](tables), "csv": RENDERERS["csv"](tables)}
    if ablation:
        texts["md"] = ablation_table(scores) + "\n" + texts["md"]
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in texts.items():
        with replace_when_whole(folder / f"report.{suffix}") as temporary:
            temporary.write_text(text)
    figures = [figure for each in scores for figure in _draw_routing(each, folder / "routing")]
    print(texts["md"])
    print(f"wrote {folder}/report.md, .tex, .csv" + (f" and {len(figures)} figures in {folder / 'routing'}" if figures else ""))


def _draw_routing(scores: Scores, folder: Path) -> list[Path]:
    """One heat map for each benchmark and block: groups of images by outer gates and by the sub-experts of each group, mean weights."""
    paths = []
    for benchmark, by_group in scores.routing.items():
        kinds = _kinds(scores, len(next(iter(by_group.values()))[0][0]))
        rows = sorted(by_group, key=lambda name: (name.count("_"), name))
        inter = torch.tensor([by_group[name][0] for name in rows])  # [rows, blocks, G]
        for block in range(inter.shape[1]):
            panels: list[Panel] = [("outer gates", inter[:, block], kinds, 1.0)]
            for place, kind in enumerate(kinds):
                weights = torch.tensor([by_group[name][1][block][place] for name in rows])
                if weights.shape[1]:
                    panels.append((kind, weights, [f"e{number}" for number in range(weights.shape[1])], max(float(weights.max()), 1e-6)))
            picture = draw_panels(f"{scores.name}, {benchmark}, block {block}: mean weights by degradation, %", rows, panels, dpi=120)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{scores.name}_{benchmark}_block{block}.png".replace("/", "_")
            with replace_when_whole(path) as temporary:
                Image.fromarray(picture).save(temporary, format="PNG")
            paths.append(path)
    return paths


def _kinds(scores: Scores, number: int) -> list[str]:
    """The groups' names by the run's config where that is there, else their numbers."""
    try:
        kinds = read_variant(scores.folder).groups
    except ValueError:
        return [f"group {place}" for place in range(number)]
    return list(kinds) if len(kinds) == number else [f"group {place}" for place in range(number)]
