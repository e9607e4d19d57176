"""The layout of TensorBoard's Custom Scalars page: what belongs into one chart."""

from __future__ import annotations

import re
from collections.abc import Sequence

Layout = dict[str, dict[str, list]]


def scalar_layout(num_blocks: int, groups: Sequence[str]) -> Layout:
    """Categories of multi-line charts in reading order; each line is chosen by a regular expression over the tags.

    Quality and losses first, then the state of the experts as a whole, then one category per MiM block: its outer gates and the load of
    each of its groups.

    Args:
        num_blocks: Number of MiM blocks.
        groups: Distinct labels of the groups.
    """
    layout: Layout = {
        "1 Quality and losses": {
            "PSNR on validation photographs, dB": _lines(r"^val/psnr_(output|input|estimate)$"),
            "SSIM on validation photographs": _lines(r"^val/ssim_(output|input|estimate)$"),
            "PSNR gain over the input by group, dB": _lines(r"^val_groups/[^/]+/psnr_gain$"),
            "training losses": _lines(r"^train/loss(/.*)?$"),
        },
        "2 Experts at a glance": {
            "load entropy: 1 is balanced": _lines(r"^experts/load_entropy_(mean|worst)$"),
            "MaxVio: 0 is balanced": _lines(r"^experts/max_violation_(mean|worst)$"),
            "dead experts": _lines(r"^experts/dead$"),
            "steps since the most idle expert was in use": _lines(r"^experts/dead_age_worst$"),
            "information on the degradation, and by chance": _lines(r"^experts/nmi_(mean|best|chance)$"),
            "entropy of one image's gates: 0 is certain": _lines(r"^experts/(image|gate)_entropy$"),
        },
    }
    for block in range(num_blocks):
        charts = {"outer gates, mean weight": _lines(rf"^gates/block{block}/.*$")}
        charts |= {f"{group}, share of choices": _lines(rf"^experts_load/block{block}/{re.escape(group)}/.*$") for group in groups}
        layout[f"3 Block {block}"] = charts
    return layout


def _lines(pattern: str) -> list:
    return ["Multiline", [pattern]]
