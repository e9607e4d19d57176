"""MoE-in-MoE conditioner: residuals for the diffusion transformer, computed from the degraded image."""

from mimdit.conditioner.inter_moe import InterMoE
from mimdit.conditioner.intra_moe import IntraMoE
from mimdit.conditioner.moe_conditioner import Conditioning, MoEConditioner

__all__ = ["Conditioning", "InterMoE", "IntraMoE", "MoEConditioner"]
