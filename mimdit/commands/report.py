"""``mimdit report``: the results of runs as tables and figures."""

from pathlib import Path

import torch
from PIL import Image

from mimdit.core.files import replace_when_whole
from mimdit.evaluation.report import Run, load_published, make_tables, read_runs
from mimdit.evaluation.report.ablation import ablation_table, read_variant
from mimdit.evaluation.report.comparison import compare_runs, comparison_csv, comparison_table
from mimdit.evaluation.report.tables import RENDERERS, differing_images
from mimdit.plots.expert_maps import gates_by_degradation


def report(
    runs: list[str],
    *,
    output: str = "report",
    published: list[str] | None = None,
    ablation: bool = False,
    compare: bool = False,
) -> None:
    """Merge the results of runs into tables beside published figures, and draw which experts served which degradation.

    Writes report.md, report.tex and report.csv: one table for each test set and metric, groups in the paper's order, the mean of groups and
    the mean of images, best and second best marked. Published rows come from test sets with the same name (foundir, cdd11), each with its
    source. Where results hold the gates, routing/ gets a heat map for each run, test set and block.

    Args:
        runs: Folders that a test wrote results.json and results.jsonl to; name=folder names a row.
        output: Folder to write to.
        published: Further files of published figures, in the form of mimdit/evaluation/report/published/foundir.yaml.
        ablation: If true, also put a table of each run's varied settings, from its saved config, on top.
        compare: If true, also compare every further run with the first, image by image, with bootstrap intervals; writes comparison.csv.

    Raises:
        ValueError: A run has no results, two have one name, there is nothing to compare, or a file is damaged.
    """
    if compare and len(runs) < 2:
        raise ValueError(f"comparing needs at least two runs, got {len(runs)}; name them: mimdit report --compare runs/a runs/b")
    read = read_runs(runs)
    tables = make_tables(read, load_published(published or []))
    remarks = [*dict.fromkeys(remark for run in read for remark in run.remarks), *differing_images(tables)]
    texts = {f"report.{suffix}": RENDERERS[suffix](tables, *([remarks] if suffix == "md" else [])) for suffix in RENDERERS}
    if compare:
        comparisons = [each for run in read[1:] for each in compare_runs(read[0], run)]
        texts["report.md"] = comparison_table(comparisons) + "\n" + texts["report.md"]
        texts["comparison.csv"] = comparison_csv(comparisons)
    if ablation:
        texts["report.md"] = ablation_table(read) + "\n" + texts["report.md"]
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with replace_when_whole(folder / name) as temporary:
            temporary.write_text(text)
    figures = [figure for run in read for figure in _write_gate_maps(run, folder / "routing")]
    print(texts["report.md"])
    print(f"wrote {', '.join(texts)} in {folder}" + (f" and {len(figures)} figures in {folder / 'routing'}" if figures else ""))


def _write_gate_maps(run: Run, folder: Path) -> list[Path]:
    """Write one heat map for each test set and block."""
    paths = []
    for test_set, by_group in run.routing.items():
        rows = sorted(by_group, key=lambda name: (name.count("_"), name))
        inter = torch.tensor([by_group[name][0] for name in rows])  # [rows, blocks, G]
        groups = _expert_groups(run, inter.shape[2])
        for block in range(inter.shape[1]):
            intra = [torch.tensor([by_group[name][1][block][place] for name in rows]) for place in range(len(groups))]
            title = f"{run.name}, {test_set}, block {block}: mean weights by degradation, %"
            picture = gates_by_degradation(title, rows, groups, inter[:, block], intra)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{run.name}_{test_set}_block{block}.png".replace("/", "_")
            with replace_when_whole(path) as temporary:
                Image.fromarray(picture).save(temporary, format="PNG")
            paths.append(path)
    return paths


def _expert_groups(run: Run, number: int) -> list[str]:
    """Return the expert groups' names by the run's config, or their numbers where there is no config."""
    try:
        groups = read_variant(run.folder).groups
    except ValueError:
        return [f"group {place}" for place in range(number)]
    return list(groups) if len(groups) == number else [f"group {place}" for place in range(number)]
