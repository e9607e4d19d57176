"""Decisions that hold for all frames of a shot."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mimdit.routing.routing import Routing


@dataclass(frozen=True)
class Shot:
    """What the conditioner decides once for a shot, so that frames do not differ in it. Not in the paper.

    Attributes:
        routing: The decisions of all gates, for one image.
        tone_BF: Statistics ``[1, F]`` that the tone curve's shared coefficients are computed from; None without a tone curve.
        identified: Logits ``[1, A]`` of the degradations; None without an identification head.
    """

    routing: Routing
    tone_BF: torch.Tensor | None
    identified: torch.Tensor | None
