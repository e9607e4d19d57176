"""Linear experts in int8, a quarter of the bytes of fp32; for inference, not for training. Not in the paper.

Each output channel of each sub-expert has its own scale: ``weight ≈ scale * q`` with q in -127..127 and no zero point. torchao has the same
weight-only format for ``nn.Linear``, but not for a stack of sub-experts.

Shape legend: as in `mimdit.conditioner.stacked`.
"""

from __future__ import annotations

import torch
from torch import nn

from mimdit.conditioner.stacked import StackedPointwise

_QUANTIZED = "quantized_EOI"


class Int8Pointwise(StackedPointwise):
    """`StackedPointwise` for inference with weights stored in int8 and dequantized on access.

    Args:
        weight_EOI: The weights ``[E, O, I]``.
    """

    quantized_EOI: torch.Tensor
    scale_EO1: torch.Tensor

    def __init__(self, weight_EOI: torch.Tensor) -> None:
        nn.Module.__init__(self)  # skips the parent's parameter
        weight_EOI = weight_EOI.detach().float()
        scale_EO1 = weight_EOI.abs().amax(dim=2, keepdim=True) / 127
        # A channel of zeros gets the scale one, to avoid division by zero.
        scale_EO1 = torch.where(scale_EO1 > 0, scale_EO1, torch.ones_like(scale_EO1))
        self.register_buffer(_QUANTIZED, (weight_EOI / scale_EO1).round().to(torch.int8))
        self.register_buffer("scale_EO1", scale_EO1)

    @property
    def weight_EOI(self) -> torch.Tensor:
        """Dequantized weights ``[E, O, I]``."""
        return self.quantized_EOI * self.scale_EO1


def quantize_experts(conditioner: nn.Module) -> None:
    """Replace every `StackedPointwise` of ``conditioner``, in place, with an `Int8Pointwise` of its weights."""
    for module in list(conditioner.modules()):
        for name, child in list(module.named_children()):
            if type(child) is StackedPointwise:
                setattr(module, name, Int8Pointwise(child.weight_EOI))


def is_quantized(names: list[str]) -> bool:
    """Return true if ``names``, the keys of a conditioner's state, include int8 weights."""
    return any(name.endswith(f".{_QUANTIZED}") for name in names)
