"""The MoE-in-MoE conditioner: reads the degraded image and steers the diffusion transformer."""

from mimdit.conditioner.inter_moe import InterMoE
from mimdit.conditioner.intra_moe import IntraMoE
from mimdit.conditioner.moe_conditioner import Conditioning, MoEConditioner

__all__ = ["Conditioning", "InterMoE", "IntraMoE", "MoEConditioner"]
