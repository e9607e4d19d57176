"""Every chart of the layout finds what the callbacks log, and no more."""

import re

from callbacks import ExpertUtilization, Memory, Quality, RankSpread, Restarts, Throughput
from callbacks.scalar_layout import scalar_layout
from tests.callbacks.dummy import DummyRestorer, events, loader, trainer

OTHERS = {
    "train/loss",
    "train/loss/flow",
    "train/loss/harm",
    "train/loss/identify",
    "train/loss/balance",
    "train/loss/token_z",
    "lr-AdamW",
    "speed/mfu",
    "val/psnr_estimate",
    "val_groups/01Blur/psnr_estimate",
}
"""Logged by the restorer and Lightning, which the dummy does not do, and where a peak is known."""


def test_no_chart_is_empty_and_lines_are_where_they_belong(tmp_path):
    watching = (ExpertUtilization(every_n_steps=2), Quality(), Throughput(2), Memory(2), RankSpread(2), Restarts())
    run = trainer(tmp_path, *watching, max_steps=6, log_every_n_steps=1)
    run.fit(DummyRestorer(), loader(), loader())
    tags = set(events(tmp_path).Tags()["scalars"]) | OTHERS
    charts = {title: lines for category in scalar_layout(2, ("spatial", "se")).values() for title, lines in category.items()}
    found = {title: {tag for tag in tags if re.match(patterns[0], tag)} for title, (_, patterns) in charts.items()}
    assert not [title for title, lines in found.items() if not lines]
    assert found["PSNR gain over the input, single degradations, dB"] == {"val_groups/05Noise/psnr_gain"}
    assert found["PSNR gain over the input, mixed degradations, dB"] == {"val_groups/09Lowlight_Haze/psnr_gain"}
    assert found["training loss, and the part of the task"] == {f"train/loss{name}" for name in ("", "/flow", "/harm", "/identify")}
    assert found["training loss, the part of the routing"] == {"train/loss/balance", "train/loss/token_z"}
    assert found["se, share of choices"] == {f"experts_load/block1/se/e{expert}" for expert in range(4)}
