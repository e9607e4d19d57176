"""The four kinds of experts (paper: heterogeneous experts). Each module is a stack of E sub-experts of its kind.

Contract of a kind:

- ``Kind(dim, hidden, num_experts, shift=shift)`` constructs it.
- ``forward(images [B, C, H, W], rows, weights_BK) -> [B, C, H, W]`` is the sum over the K sub-experts of each image, as listed in ``rows``
  (`mimdit.conditioner.dispatch`), weighted by their gates. Sub-experts that no image chose do not change the output.
- ``statistics(images, rows, piece)`` is one piece's contribution to the global statistics that the kind reads: a tuple of tensors, empty if
  it reads none. ``forward(…, statistics)`` takes their sums over all pieces instead of computing them from ``images``.

Shape legend: B images, C channels, E sub-experts, K chosen, R = B * K rows, h inner channels of one sub-expert, N positions.
"""

from mimdit.conditioner.experts.channel import ChannelAttention
from mimdit.conditioner.experts.se import SqueezeExcitation
from mimdit.conditioner.experts.spatial import SpatialAttention
from mimdit.conditioner.experts.swin import SwinAttention

KINDS = {"spatial": SpatialAttention, "channel": ChannelAttention, "swin": SwinAttention, "se": SqueezeExcitation}

__all__ = ["KINDS", "ChannelAttention", "SpatialAttention", "SqueezeExcitation", "SwinAttention"]
