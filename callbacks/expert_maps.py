"""The figure of who works on what: degradation by expert, one figure per MiM block."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mimdit.routing.utilization import Utilization


def expert_map(statistics: Utilization, block: int, *, dpi: int = 90) -> np.ndarray:
    """Draw one block: for each class of degradation the outer gate's mean weights, then for each group the experts' shares.

    Every row of every panel sums to 1. The title of a group tells its mutual information with the degradation and, after it, the level
    that chance alone would give.

    Args:
        statistics: What to draw, D classes in its order of combinations.
        block: Index of the block.
        dpi: Pixels per inch; the figure is about 2.5 inches wide per group.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    rows = _row_order(statistics)
    panels = [("groups", statistics.gate_DMG[rows, block], statistics.groups)]
    for index, group in enumerate(statistics.groups):
        real = statistics.mask_GE[index]
        shares_DE = statistics.confusion_DMGE[rows, block, index][:, real]
        information, chance = float(statistics.information_MG[block, index]), float(statistics.chance_MG[block, index])
        panels.append((f"{group}\nNMI {information:.2f} (chance {chance:.2f})", shares_DE, [f"e{i}" for i in range(shares_DE.shape[1])]))
    widths = [max(2, shares.shape[1]) for _, shares, _ in panels]
    figure = Figure(figsize=(2.2 + 0.55 * sum(widths), 1.6 + 0.3 * len(rows)), dpi=dpi, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, width_ratios=widths, squeeze=False)[0]
    for axis, (title, shares, names) in zip(axes, panels):
        picture = _draw_panel(axis, title, shares, names)
    labels = [f"{statistics.classes[row]}  ({int(statistics.class_images_D[row])})" for row in rows]
    axes[0].set_yticks(range(len(rows)), labels=labels, fontsize=8)
    figure.colorbar(picture, ax=list(axes), fraction=0.02, pad=0.01)
    figure.suptitle(f"block {block}: share of choices by degradation (images)", fontsize=10)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _row_order(statistics: Utilization) -> list[int]:
    """Fewest atoms first, then by name: single degradations stand on top, mixtures below."""
    return sorted(range(len(statistics.classes)), key=lambda row: (_num_atoms(statistics.classes[row]), statistics.classes[row]))


def _num_atoms(name: str) -> int:
    return 0 if name == "clean" else name.count("+") + 1


def _draw_panel(axis, title: str, shares_DN: torch.Tensor, names):
    """One panel with its numbers; text turns dark on light cells."""
    picture = axis.imshow(shares_DN.numpy(), vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axis.set_title(title, fontsize=8)
    axis.set_xticks(range(len(names)), labels=names, fontsize=8, rotation=45 if max(map(len, names)) > 3 else 0)
    axis.tick_params(length=0)
    for row, shares in enumerate(shares_DN.tolist()):
        for column, share in enumerate(shares):
            axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color="black" if share > 0.6 else "white")
    return picture
