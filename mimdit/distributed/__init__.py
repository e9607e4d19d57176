"""What knows about ranks: the sharded strategy, and checkpoints that any number of ranks reads and writes."""

from lightning.pytorch.strategies import StrategyRegistry

from mimdit.distributed.checkpoint_files import WholeCheckpointIO
from mimdit.distributed.fsdp2 import FSDP2Strategy

__all__ = ["FSDP2Strategy", "WholeCheckpointIO"]

# For --trainer.strategy=fsdp2: on the command line Lightning takes any word for a name, a class_path too.
StrategyRegistry.register("fsdp2", FSDP2Strategy, description="Fully sharded data parallelism over all ranks", override=True)
