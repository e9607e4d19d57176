"""What knows about ranks: the sharded strategy, and checkpoints that any number of ranks reads and writes."""

from mimdit.distributed.checkpoint_io import WholeCheckpointIO
from mimdit.distributed.fsdp2 import FSDP2Strategy

__all__ = ["FSDP2Strategy", "WholeCheckpointIO"]
