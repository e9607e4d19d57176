"""Linear experts in int8: a quarter of the bytes of fp32, for use and not for training.

Each output channel of each sub-expert has a scale of its own: ``weight ≈ scale * q`` with q in -127..127 and no zero point, as torchao's
weight-only int8 has it for ``nn.Linear``, which a stack of sub-experts is not. (ours)

Shape legend: as in `mimdit.conditioner.stacked`.
"""

from __future__ import annotations

import torch
from torch import nn

from mimdit.conditioner.stacked import StackedPointwise

_QUANTIZED = "quantized_EOI"


class Int8Pointwise(StackedPointwise):
    """A `StackedPointwise` for use whose weights are held in int8 and made floats again where they are asked for.

    Args:
        weight_EOI: The weights ``[E, O, I]``.
    """

    def __init__(self, weight_EOI: torch.Tensor) -> None:
        nn.Module.__init__(self)  # it has no parameter
        weight_EOI = weight_EOI.detach().float()
        scale_EO1 = weight_EOI.abs().amax(dim=2, keepdim=True) / 127
        # A channel of zeros has any scale: one, so that nothing is divided by zero.
        scale_EO1 = torch.where(scale_EO1 > 0, scale_EO1, torch.ones_like(scale_EO1))
        self.register_buffer(_QUANTIZED, (weight_EOI / scale_EO1).round().to(torch.int8))
        self.register_buffer("scale_EO1", scale_EO1)

    @property
    def weight_EOI(self) -> torch.Tensor:
        """The weights, ``[E, O, I]``, rounded to the values that int8 holds."""
        return self.quantized_EOI * self.scale_EO1


def quantize_experts(conditioner: nn.Module) -> None:
    """Replace every `StackedPointwise` of ``conditioner`` by an `Int8Pointwise` with its weights."""
    for module in list(conditioner.modules()):
        for name, child in list(module.named_children()):
            if type(child) is StackedPointwise:
                setattr(module, name, Int8Pointwise(child.weight_EOI))


def is_quantized(names: list[str]) -> bool:
    """Whether these names of a conditioner's state are those of int8 experts."""
    return any(name.endswith(f".{_QUANTIZED}") for name in names)
