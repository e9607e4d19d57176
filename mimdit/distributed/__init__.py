"""Training over ranks: the FSDP2 strategy, and checkpoints that any number of ranks can read and write."""

from lightning.pytorch.strategies import StrategyRegistry

from mimdit.distributed.checkpoint_files import WholeCheckpointIO
from mimdit.distributed.fsdp2 import FSDP2Strategy

__all__ = ["FSDP2Strategy", "WholeCheckpointIO"]

# For --trainer.strategy=fsdp2 and hsdp: on the command line Lightning accepts only registered names, not a class_path.
StrategyRegistry.register("fsdp2", FSDP2Strategy, description="Fully sharded data parallelism over all ranks", override=True)
StrategyRegistry.register(
    "hsdp", FSDP2Strategy, description="Sharded data parallelism inside nodes, with a copy on each", override=True, shard_over="node"
)
