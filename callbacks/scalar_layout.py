"""Layout of TensorBoard's Custom Scalars page: the tags of each chart."""

from __future__ import annotations

import re
from collections.abc import Sequence

Layout = dict[str, dict[str, list]]


def scalar_layout(num_blocks: int, groups: Sequence[str]) -> Layout:
    """Return categories of multi-line charts in reading order; each line is chosen by a regular expression over the tags.

    Quality and losses come first, then the experts as a whole, then one category per MiM block, with its Inter-MoE gates and the load of
    each expert group, then the machines. TensorBoard gives all lines of one run the same color and different markers, so a chart has few
    lines.

    Args:
        num_blocks: Number of MiM blocks.
        groups: Distinct labels of the expert groups.
    """
    layout: Layout = {
        "1 Quality and losses": {
            "PSNR on validation photographs, dB": _lines(r"^val/psnr_(output|input|estimate)$"),
            "SSIM on validation photographs": _lines(r"^val/ssim_(output|input|estimate)$"),
            "PSNR gain over the input, single degradations, dB": _lines(r"^val_groups/[^/_]+/psnr_gain$"),
            "PSNR gain over the input, mixed degradations, dB": _lines(r"^val_groups/[^/]*_[^/]*/psnr_gain$"),
            "PSNR of images that needed nothing, dB": _lines(r"^val_groups/[0-9]*[Cc]lean/psnr_output$"),
            "training loss, and the part of the task": _lines(r"^train/loss(/(flow|estimate|harm|identify))?$"),
            "training loss, the part of the routing": _lines(
                r"^train/loss/(balance|z|importance|specialization|contrast|guide|token_balance|token_z)$"
            ),
            "gradient norm before clipping": _lines(r"^train/grad_norm$"),
            "learning rate": _lines(r"^lr-.*$"),
            "images per second": _lines(r"^speed/images_per_second$"),
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
        charts = {"Inter-MoE gates, mean weight": _lines(rf"^experts_gates/outer/block{block}/.*$")}
        charts |= {f"{group}, share of choices": _lines(rf"^experts_load/block{block}/{re.escape(group)}/.*$") for group in groups}
        layout[f"3 Block {block}"] = charts
    layout["4 Machines"] = {
        "share of time waiting for data, over ranks": _lines(r"^ranks/data_wait_(min|mean|max)$"),
        "seconds per step, over ranks": _lines(r"^ranks/seconds_per_step_(min|mean|max)$"),
        "seconds from batch to loss, over ranks": _lines(r"^ranks/seconds_to_loss_(min|mean|max)$"),
        "number of the slowest rank": _lines(r"^ranks/slowest$"),
        "seconds per step that it is behind the mean": _lines(r"^ranks/behind$"),
        "model FLOPs utilization": _lines(r"^speed/mfu$"),
        "memory of the fullest rank, GiB": _lines(r"^memory/.*_gib$"),
        "restarts so far": _lines(r"^run/restarts$"),
    }
    return layout


def _lines(pattern: str) -> list:
    return ["Multiline", [pattern]]
