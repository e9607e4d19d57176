"""Figure of one image's gates: expert groups and sub-experts with their weights, block by block."""

from __future__ import annotations

import io
import textwrap

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from mimdit.routing.routing import Routing
from mimdit.routing.utilization import group_labels

_LETTER, _LINE = 0.072, 0.17
"""Width of a letter and height of a line of the footer, in inches."""


def expert_shares(routing: Routing, image: int = 0) -> torch.Tensor:
    """Return each sub-expert's share of a block's sum for one image, ``[M, G, E]``: the weight of its group times its own."""
    return (routing.inter.weights[:, image, :, None] * routing.intra.weights[:, :, image]).cpu()


def gate_chart(routing: Routing, image: int = 0, *, title: str = "", footer: str = "", dpi: int = 100) -> Image.Image:
    """Draw the gates of one image in percent: a row per block, a column per sub-expert, empty where a sub-expert was not chosen.

    The mean weight of an expert group over the blocks is above its columns; ``footer``, such as the probabilities of the degradations, is
    below the table.
    """
    shares_MGE = expert_shares(routing, image)
    columns = [(group, expert) for group in range(shares_MGE.shape[1]) for expert in range(shares_MGE.shape[2])]
    table = shares_MGE.flatten(1).double().numpy()
    rows, count = table.shape
    lines = textwrap.wrap(footer, width=max(20, int((1.0 + 0.42 * count) / _LETTER)))
    below = _LINE * len(lines)
    figure = Figure(figsize=(1.0 + 0.42 * count, 1.15 + 0.3 * rows + below), dpi=dpi)
    FigureCanvasAgg(figure)
    width, height = figure.get_size_inches()
    axis = figure.add_axes((0.85 / width, (0.35 + below) / height, 0.42 * count / width, 0.3 * rows / height))
    axis.imshow(table, vmin=0, vmax=max(0.5, table.max()), cmap="Blues", aspect="auto", interpolation="nearest")
    for (row, column), share in np.ndenumerate(table):
        if share > 0:
            color = "white" if share > 0.35 else "black"
            axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=color)
    axis.set_yticks(range(rows), labels=[f"block {row}" for row in range(rows)], fontsize=8)
    axis.set_xticks(range(count), labels=[f"e{expert}" for _, expert in columns], fontsize=8)
    axis.tick_params(length=0)
    weights_G = routing.inter.weights[:, image].mean(dim=0).cpu()
    for index, label in enumerate(group_labels(routing.groups)):
        places = [place for place, (group, _) in enumerate(columns) if group == index]
        axis.text(float(np.mean(places)), -0.75, f"{label}\n{100 * float(weights_G[index]):.0f} %", ha="center", va="bottom", fontsize=8)
        if index:
            axis.axvline(places[0] - 0.5, color="black", linewidth=0.8)
    figure.text(0.01, 0.99, title or "share of each block's sum, %", fontsize=8, va="top")
    figure.text(0.01, 0.04 / height, "\n".join(lines), fontsize=8, va="bottom")
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return Image.open(out).convert("RGB")
