"""Floating-point operations of a training step and of a restoration, counted from shapes on the meta device.

A multiply-add of a matrix product, a convolution or an attention counts as two operations; everything else (norms, activations, sums)
counts as none, as is usual for comparison with a device's peak. Nothing is computed and no weights are copied, so counting a model of
billions of parameters takes seconds and hardly any memory.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mimdit.core.batch import Batch

Shape = tuple[int, ...]
Twin = TypeVar("Twin", bound=nn.Module)


def _grouped_mm_flops(a: Shape, b: Shape, *_, out_shape: Shape, **__) -> int:
    """Count every row, column or slice between the offsets once, whatever the offsets are."""
    if len(a) == len(b) == 2:  # [M, T] x [T, N]: groups of the summed dimension
        return 2 * math.prod(a) * b[1]
    return 2 * math.prod(out_shape) * a[-1]


def _convolution_backward_flops(
    grad_output: Shape, inputs: Shape, weight: Shape, bias, stride, padding, dilation, transposed: bool, output_padding, groups: int,
    output_mask: list[bool], **_,
) -> int:  # fmt: skip
    """Count the forward once for the input's gradient and once for the weight's. PyTorch's own (2.14) ignores groups in the latter."""
    positions = inputs[2:] if transposed else grad_output[2:]
    forward = 2 * inputs[0] * math.prod(positions) * math.prod(weight)
    return forward * sum(output_mask[:2])


def _attention_flops(query: Shape, key: Shape, value: Shape, *_, **__) -> int:
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward_flops(grad_output: Shape, query: Shape, key: Shape, value: Shape, *_, **__) -> int:
    """Count the forward twice: the recomputation of a fused kernel is not a cost of the model."""
    return 2 * _attention_flops(query, key, value)


FORMULAS = {
    torch.ops.aten._grouped_mm: _grouped_mm_flops,
    torch.ops.aten.convolution_backward: _convolution_backward_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
"""Formulas from shapes for operators that PyTorch's counter (2.14) leaves out or gets wrong."""


def count_flops(run: Callable[[], object]) -> int:
    """Return the operations of ``run()``, on any device; compiled modules run uncompiled."""
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        run()
    return counter.get_total_flops()


@dataclass(frozen=True)
class StepFlops:
    """Operations of a training step's forward and backward pass."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        """Operations of both passes together."""
        return self.forward + self.backward


def step_flops(loss: Callable[[], torch.Tensor]) -> StepFlops:
    """Return the operations of ``loss()`` and of its backward pass: only the gradients that are needed.

    Recomputation in gradient checkpoints is left out: it is work of the device, but not of the model.
    """
    kept: list[torch.Tensor] = []
    forward = count_flops(lambda: kept.append(loss()))
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False, custom_mapping=_backward_formulas()) as counter:
        kept[0].backward()
    return StepFlops(forward, counter.get_total_flops())


def _backward_formulas() -> dict:
    """Return all formulas, zero where gradients are recorded: in a backward pass only recomputation does that."""
    everything = FlopCounterMode(display=False, custom_mapping=FORMULAS).flop_registry
    return {operator: _unless_recomputed(formula) for operator, formula in everything.items()}


def _unless_recomputed(formula: Callable[..., int]) -> Callable[..., int]:
    def flops(*args, **kwargs) -> int:
        return 0 if torch.is_grad_enabled() else formula(*args, **kwargs)

    flops._get_raw = True  # `formula` turns tensors into shapes itself
    return flops


def meta_twin(module: Twin) -> Twin:
    """Return a copy of ``module`` on the meta device, without weight data, in fp32: autocast, which makes types agree, does not work there.

    Lightning modules lose their Trainer and log nothing.
    """
    tensors = [*module.parameters(), *module.buffers()]
    twin = copy.deepcopy(module, {id(tensor): _shape_of(tensor) for tensor in tensors}).to("meta")
    for part in twin.modules():
        if isinstance(part, L.LightningModule):
            part.log = part.log_dict = _log_nothing
    return twin


def _shape_of(tensor: torch.Tensor) -> torch.Tensor:
    shape = torch.empty_like(tensor, device="meta", dtype=torch.float32 if tensor.is_floating_point() else None)
    return nn.Parameter(shape, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shape


def _log_nothing(*_, **__) -> None:
    pass


def training_flops(module: L.LightningModule, batch: Batch) -> StepFlops:
    """Return the operations of ``module.training_step`` on a batch of the shapes of ``batch``, and of its backward pass, on this rank.

    Everything in the step counts, including the codec if images are encoded in training. ``module`` may be a `meta_twin`; it is not
    changed.
    """
    twin, shapes = meta_twin(module), move_data_to_device(batch, torch.device("meta"))

    def loss() -> torch.Tensor:
        output = twin.training_step(shapes, 0)
        loss = output["loss"] if isinstance(output, dict) else output
        assert isinstance(loss, torch.Tensor)  # Lightning allows other outputs; the modules here have none
        return loss

    return step_flops(loss)


def restoration_flops(restorer: L.LightningModule, images: torch.Tensor, steps: int, **settings) -> int:
    """Return the operations of ``restorer.restore(images, steps=steps, **settings)`` for ``images [B, 3, H, W]``, by their shape.

    At most two steps are counted: each further one costs as much as the second.
    """
    restore = cast(Callable[..., torch.Tensor], meta_twin(restorer).restore)  # of the class above in the order of imports
    shapes = images.to("meta")
    fewest = count_flops(lambda: restore(shapes, steps=min(steps, 2), **settings))
    if steps <= 2:
        return fewest
    return fewest + (steps - 2) * (fewest - count_flops(lambda: restore(shapes, steps=1, **settings)))
