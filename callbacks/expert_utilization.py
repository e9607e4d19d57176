"""ExpertUtilization: log the use of experts in training to TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.distributed.tensor import DTensor
from torch.utils.tensorboard import SummaryWriter

from callbacks.loggers import has_tensorboard, tensorboard_writer
from callbacks.scalar_layout import scalar_layout
from mimdit.conditioner import MoEConditioner
from mimdit.plots.expert_maps import expert_map
from mimdit.routing.router import PrototypeRouter
from mimdit.routing.utilization import Utilization, UtilizationCounts, utilization


class ExpertUtilization(L.Callback):
    """Count every gate's decisions in training over all ranks, and log their statistics on rank 0.

    Reads ``outputs["routing"]`` of the training step; does nothing if a module returns none. Counting never waits for the device; once
    per window there is one all-reduce and one copy to the host. Validation does not change the counts. Checkpoints keep the age of idle
    experts, in whole windows. See `mimdit.routing.utilization.Utilization` for the statistics. Not in the paper.

    A conditioner with ``router: prototype`` also gets ``experts_gates/prototype_similarity``, see `prototype_similarity`.

    Args:
        every_n_steps: Optimizer steps of one window of counts.
        figure_every_n_steps: Optimizer steps between figures; each figure covers all windows since the last.
        dead_after: Optimizer steps below a tenth of the uniform load after which an expert counts as dead.
        figure_blocks: Maximum number of MiM blocks that get a figure, spread from first to last; drawing one takes most of a second.
        layout: If true, lay out TensorBoard's Custom Scalars page.

    Raises:
        ValueError: A number is below 1.
    """

    def __init__(
        self, every_n_steps: int = 50, figure_every_n_steps: int = 500, dead_after: int = 200, figure_blocks: int = 4, layout: bool = True
    ) -> None:
        given = {"every_n_steps": every_n_steps, "figure_every_n_steps": figure_every_n_steps, "dead_after": dead_after}
        for name, value in (given | {"figure_blocks": figure_blocks}).items():
            if value < 1:
                raise ValueError(f"{name}={value} of ExpertUtilization must be at least 1")
        self.every_n_steps, self.figure_every_n_steps, self.dead_after = every_n_steps, figure_every_n_steps, dead_after
        self.figure_blocks, self.layout = figure_blocks, layout
        self._window, self._since_figure = UtilizationCounts(), UtilizationCounts()
        self._age_MGE: torch.Tensor | None = None
        self._active = self._laid_out = False
        self._last_step = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the parameters that the conditioner stores, and those that are active for an image."""
        conditioner = getattr(pl_module, "conditioner", None)
        if isinstance(conditioner, MoEConditioner):
            stored, active = conditioner.parameter_counts()
            rank_zero_info(f"ExpertUtilization: the conditioner stores {stored:,} parameters, of which {active:,} are active for an image")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the first window at the step that training starts or resumes from."""
        self._active = has_tensorboard(trainer, type(self).__name__)
        self._laid_out = not self.layout
        self._window, self._since_figure = UtilizationCounts(), UtilizationCounts()
        self._last_step = self._window_start = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count a micro-batch; reduce and log at the end of a window."""
        routing = outputs.get("routing") if isinstance(outputs, dict) else None
        if routing is None or not self._active:
            return
        self._window.update(routing, batch["degradation"])
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        if step % self.every_n_steps == 0:
            self._close_window(tensorboard_writer(trainer), step, pl_module)
        if step % self.figure_every_n_steps == 0:
            self._draw(tensorboard_writer(trainer), step)

    def _close_window(self, writer: SummaryWriter | None, step: int, pl_module: L.LightningModule) -> None:
        """Reduce over all ranks, and log if this rank has a writer."""
        self._window.all_reduce()
        statistics = utilization(self._window)
        similarity = prototype_similarity(pl_module, statistics.groups)
        self._since_figure.add(self._window)
        self._window.reset()
        age_MGE = self._grow_older(statistics, step - self._window_start)
        self._window_start = step
        if writer is None:
            return
        if not self._laid_out:
            writer.add_custom_scalars(scalar_layout(len(statistics.gate_MG), statistics.groups))
            self._laid_out = True
        for tag, value in {**self._summary(statistics, age_MGE), **_detail(statistics, age_MGE), **similarity}.items():
            writer.add_scalar(tag, value, step)

    def _grow_older(self, statistics: Utilization, steps: int) -> torch.Tensor:
        """Set the age of an expert in use to 0, and add the length of the window to the age of an unused one; return the ages."""
        if self._age_MGE is None or self._age_MGE.shape != statistics.unused_MGE.shape:
            self._age_MGE = torch.zeros(statistics.unused_MGE.shape, dtype=torch.int64)
        self._age_MGE = torch.where(statistics.unused_MGE, self._age_MGE + steps, 0)
        return self._age_MGE

    def _summary(self, statistics: Utilization, age_MGE: torch.Tensor) -> dict[str, float]:
        """Return the scalars of the whole model: means, and the worst gate."""
        information, chance = statistics.information_MG, statistics.chance_MG
        return {
            "experts/max_violation_mean": statistics.max_violation_MG.mean().item(),
            "experts/max_violation_worst": statistics.max_violation_MG.max().item(),
            "experts/load_entropy_mean": statistics.load_entropy_MG.mean().item(),
            "experts/load_entropy_worst": statistics.load_entropy_MG.min().item(),
            "experts/dead": float((age_MGE >= self.dead_after).sum()),
            "experts/dead_age_worst": float(age_MGE.max()),
            "experts/image_entropy": statistics.image_entropy_MG.mean().item(),
            "experts/gate_entropy": statistics.gate_entropy_M.mean().item(),
            "experts/nmi_mean": information.mean().item(),
            "experts/nmi_best": information.max().item(),
            "experts/nmi_chance": chance.mean().item(),
        }

    def _draw(self, writer: SummaryWriter | None, step: int) -> None:
        """Draw all closed windows since the last figures."""
        if writer is not None and self._since_figure.table_DW is not None and self._since_figure.table_DW.any():
            statistics = utilization(self._since_figure)
            last = len(statistics.gate_MG) - 1
            for block in sorted({round(float(place)) for place in torch.linspace(0, last, self.figure_blocks)}):
                writer.add_image(f"experts_map/block{block}", expert_map(statistics, block), step, dataformats="HWC")
        self._since_figure.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the ages of idle experts."""
        return {"age": None if self._age_MGE is None else self._age_MGE.tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the ages."""
        self._age_MGE = None if state_dict["age"] is None else torch.tensor(state_dict["age"])


def _detail(statistics: Utilization, age_MGE: torch.Tensor) -> dict[str, float]:
    """Return the scalars of every gate and expert. The first part of a tag is a folded section on TensorBoard's page: three in all."""
    scalars = {}
    for block in range(len(statistics.gate_MG)):
        for index, group in enumerate(statistics.groups):
            place, at = f"block{block}/{group}", (block, index)
            scalars[f"experts_gates/outer/{place}"] = statistics.gate_MG[at].item()
            scalars[f"experts_gates/max_violation/{place}"] = statistics.max_violation_MG[at].item()
            scalars[f"experts_gates/load_entropy/{place}"] = statistics.load_entropy_MG[at].item()
            scalars[f"experts_gates/image_entropy/{place}"] = statistics.image_entropy_MG[at].item()
            scalars[f"experts_gates/nmi/{place}"] = statistics.information_MG[at].item()
            scalars[f"experts_gates/nmi_chance/{place}"] = statistics.chance_MG[at].item()
            scalars[f"experts_gates/dead_age/{place}"] = float(age_MGE[at].max())
            for expert in range(statistics.load_MGE.shape[-1]):
                scalars[f"experts_load/{place}/e{expert}"] = statistics.load_MGE[at][expert].item()
                scalars[f"experts_probability/{place}/e{expert}"] = statistics.probability_MGE[at][expert].item()
    return scalars


@torch.no_grad()
def prototype_similarity(pl_module: L.LightningModule, groups: Sequence[str]) -> dict[str, float]:
    """Return the largest cosine between two prototypes of each gate over sub-experts; empty without such gates.

    At 1 two sub-experts get the same logits. Under a sharded strategy every rank must join.
    """
    conditioner = getattr(pl_module, "conditioner", None)
    if not isinstance(conditioner, MoEConditioner):
        return {}
    largest = {}
    for number, block in enumerate(conditioner.blocks):
        for group, moe in zip(groups, block.inter_moe.groups, strict=True):
            if not isinstance(moe.router, PrototypeRouter) or moe.num_experts < 2:
                continue
            cosines = moe.router.similarities()
            cosines = (cosines.full_tensor() if isinstance(cosines, DTensor) else cosines).cpu()
            same = torch.eye(len(cosines), dtype=torch.bool)
            largest[f"experts_gates/prototype_similarity/block{number}/{group}"] = cosines.masked_fill(same, -1).max().item()
    return largest
