"""Figures of the experts' use by degradation: one per MiM block, from training's counts or from a test's mean gates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mimdit.routing.utilization import Utilization


def expert_map(statistics: Utilization, block: int, *, dpi: int = 90) -> np.ndarray:
    """Draw one block in percent: for each class of degradation the Inter-MoE gate's mean weights, then each expert group's shares.

    Every row of every panel sums to 100. The color scale of a panel ends at the largest possible value of a cell: with k choices per image
    that is 100 / k. The title of a group has its mutual information with the degradation, and the value expected by chance.

    Args:
        statistics: Statistics to draw; their D classes are ordered by the number of atoms.
        block: Index of the block.
        dpi: Pixels per inch; the figure is about 2.5 inches wide per group of four sub-experts.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    rows = _row_order(statistics)
    panels: list[Panel] = [("Inter-MoE gates", statistics.gate_DMG[rows, block], statistics.groups, 1.0)]
    for index, group in enumerate(statistics.groups):
        shares_DE = statistics.confusion_DMGE[rows, block, index]
        information, chance = float(statistics.information_MG[block, index]), float(statistics.chance_MG[block, index])
        title = f"{group}\nNMI {information:.2f} (chance {chance:.2f})"
        most = statistics.images / float(statistics.joint_DMGE[:, block, index].sum())
        panels.append((title, shares_DE, [f"e{expert}" for expert in range(shares_DE.shape[1])], most))
    labels = [f"{statistics.classes[row]}  ({int(statistics.class_images_D[row])})" for row in rows]
    return draw_panels(f"block {block}: share of choices by degradation (images), %", labels, panels, dpi=dpi)


def gates_by_degradation(
    title: str,
    degradations: Sequence[str],
    groups: Sequence[str],
    inter_DG: torch.Tensor,
    intra_GDE: Sequence[torch.Tensor],
    *,
    dpi: int = 120,
) -> np.ndarray:
    """Draw mean gate weights of one block: the Inter-MoE gates, then the sub-experts of each expert group that has any.

    Args:
        title: Title of the figure.
        degradations: Names of the rows.
        groups: Names of the expert groups.
        inter_DG: Mean weights of the Inter-MoE gate, ``[D, G]`` in 0..1.
        intra_GDE: For each expert group the mean weights of its sub-experts, ``[D, E]`` in 0..1; E may be 0.
        dpi: Pixels per inch.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    panels: list[Panel] = [("Inter-MoE gates", inter_DG, groups, 1.0)]
    for group, weights_DE in zip(groups, intra_GDE, strict=True):
        if weights_DE.shape[1]:
            names = [f"e{number}" for number in range(weights_DE.shape[1])]
            panels.append((group, weights_DE, names, max(float(weights_DE.max()), 1e-6)))
    return draw_panels(title, degradations, panels, dpi=dpi)


Panel = tuple[str, torch.Tensor, Sequence[str], float]
"""A title, shares ``[rows, columns]`` in 0..1, a name for each column, and the share at which the color scale ends."""


def draw_panels(title: str, labels: Sequence[str], panels: Sequence[Panel], *, dpi: int = 90) -> np.ndarray:
    """Draw heat maps with the same rows side by side, their numbers in percent.

    Args:
        title: Title of the figure.
        labels: Label of each row.
        panels: Panels from left to right.
        dpi: Pixels per inch.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    canvas, axes = _lay_out([max(3, shares.shape[1]) for _, shares, _, _ in panels], len(labels), dpi)
    for axis, panel in zip(axes, panels):
        _draw_panel(axis, *panel)
    axes[0].set_yticks(range(len(labels)), labels=labels, fontsize=8)
    canvas.figure.suptitle(title, fontsize=10, y=0.995, va="top")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _lay_out(columns: list[int], num_rows: int, dpi: int) -> tuple[FigureCanvasAgg, list[Axes]]:
    """Return the canvas of a figure with one axes per panel; margins are fixed, as automatic layout takes five times as long as drawing."""
    cell, row, left, right, top, bottom, gap = 0.48, 0.3, 1.9, 0.1, 0.75, 0.65, 0.12
    width = left + cell * sum(columns) + gap * (len(columns) - 1) + right
    height = top + row * num_rows + bottom
    figure = Figure(figsize=(width, height), dpi=dpi)
    canvas, axes, at = FigureCanvasAgg(figure), [], left
    for count in columns:
        axes.append(figure.add_axes((at / width, bottom / height, cell * count / width, row * num_rows / height)))
        axes[-1].set_yticks([])
        at += cell * count + gap
    return canvas, axes


def _row_order(statistics: Utilization) -> list[int]:
    """Return rows with the fewest atoms first, then by name: single degradations on top, mixtures below."""
    return sorted(range(len(statistics.classes)), key=lambda row: (_num_atoms(statistics.classes[row]), statistics.classes[row]))


def _num_atoms(name: str) -> int:
    return 0 if name == "clean" else name.count("+") + 1


def _draw_panel(axis: Axes, title: str, shares_DN: torch.Tensor, names: Sequence[str], most: float) -> None:
    """Draw one panel with its numbers, dark on light cells."""
    axis.imshow(shares_DN.numpy(), vmin=0, vmax=most, cmap="viridis", aspect="auto", interpolation="nearest")
    axis.set_title(title, fontsize=8)
    axis.set_xticks(range(len(names)), labels=names, fontsize=8, rotation=45 if max(map(len, names)) > 3 else 0)
    axis.tick_params(length=0)
    for row, shares in enumerate(shares_DN.tolist()):
        for column, share in enumerate(shares):
            color = "black" if share > 0.6 * most else "white"
            axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=color)
