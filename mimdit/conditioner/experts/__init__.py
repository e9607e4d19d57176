"""The four heterogeneous kinds of experts. Each module holds a whole stack of E sub-experts of its kind.

Contract: ``Kind(dim, hidden, num_experts, shift)`` and ``forward(images [B, C, H, W], rows, weights_BK) -> [B, C, H, W]``, the sum of
the K sub-experts that ``rows`` (see `mimdit.conditioner.dispatch`) names for each image, times their gates. Sub-experts that no image chose
do not touch the output.

What a kind reads of the whole image is also to be had piece by piece: ``statistics(images, rows, piece)`` is the share of one piece, as
a tuple of tensors, empty where a kind reads nothing; their sums over all pieces are what ``forward(…, statistics)`` takes in place of its
own.
"""

from mimdit.conditioner.experts.channel import ChannelAttention
from mimdit.conditioner.experts.se import SqueezeExcitation
from mimdit.conditioner.experts.spatial import SpatialAttention
from mimdit.conditioner.experts.swin import SwinAttention

KINDS = {"spatial": SpatialAttention, "channel": ChannelAttention, "swin": SwinAttention, "se": SqueezeExcitation}

__all__ = ["KINDS", "ChannelAttention", "SpatialAttention", "SqueezeExcitation", "SwinAttention"]
