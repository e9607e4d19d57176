"""FSDP2Strategy: weights, gradients, optimiser states and the moving average sliced over all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.optimizer import _optimizers_to_device
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.tensor import DTensor, Shard, zeros
from torch.utils._pytree import tree_map

from mimdit.distributed.checkpoint_files import read_checkpoint_file
from mimdit.distributed.optimizer_states import by_name, by_number, check_names, parameter_names
from mimdit.distributed.sharded_checkpoint import read_sharded, write_sharded
from mimdit.distributed.sharding import shard, spread


class FSDP2Strategy(ModelParallelStrategy):
    """Fully sharded data parallelism (FSDP2, arXiv 2304.11277) over all ranks, for models that DDP's whole copy a rank has no room for.

    In a config ``trainer.strategy: {class_path: mimdit.distributed.FSDP2Strategy}``, on the command line ``--trainer.strategy=fsdp2``.
    The model says by ``shard_units()`` what is gathered together, and is sliced before the optimiser is built. A frozen backbone is
    sliced too, in its own precision (``backbone.dtype: bfloat16``); what trains stays fp32, and ``trainer.precision: bf16-mixed`` computes
    in bf16. Checkpoints are folders (`mimdit.distributed.sharded_checkpoint`); those of any number of ranks and single files of any
    strategy are read.

    Every forward pass is a conversation of all ranks, so all must make the same number: in validation, images of one size (or no tiling).

    Args:
        process_group_backend: ``nccl`` or ``gloo``; None for what suits the device.
        timeout_minutes: How long a rank waits for the others before it gives up.
    """

    def __init__(self, *, process_group_backend: str | None = None, timeout_minutes: float = 30.0) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timedelta(minutes=timeout_minutes))

    def setup_environment(self) -> None:
        """Put all ranks into one data-parallel group: Lightning's defaults would give each node's ranks the same samples."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        """Slice the model, then build its optimiser: slicing replaces the parameters."""
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        shard(self.lightning_module, self._mesh)
        self.model_to_device()
        self.barrier()
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()
        if fitting:
            _optimizers_to_device(self.optimizers, self.root_device)

    @property
    def _mesh(self) -> torch.distributed.device_mesh.DeviceMesh:
        return self.device_mesh["data_parallel"]

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Optimisers are restored where those of other strategies are: by `load_optimizer_state_dict`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This rank's slices."""
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """This rank's slices, by the names of the parameters."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        return by_name(optimizer.state_dict(), parameter_names(optimizer, self.lightning_module))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        """Write a folder; every rank calls this."""
        if storage_options is not None:
            raise ValueError("FSDP2Strategy writes checkpoints to a file system that all ranks share and takes no storage_options")
        write_sharded(checkpoint, self.broadcast(filepath))

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read this rank's slices of a folder, or a single file as it is."""
        path = self.broadcast(checkpoint_path)
        if Path(path).is_dir():
            return read_sharded(path, lambda size, dtype: zeros(size, dtype=dtype, device_mesh=self._mesh, placements=[Shard(0)]))
        return read_checkpoint_file(path, weights_only=weights_only is not False, mmap=True)  # slices are copied out

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load what `load_checkpoint` read and the module completed: what it left out when saving, it put back before this."""
        live = self.lightning_module.state_dict()
        state = {name: self._like(tensor, live.get(name)) for name, tensor in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the states, by name or by number, whole or sliced."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            check_names(state, parameter_names(optimizer, self.lightning_module))
            numbered = by_number(state)
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            sliced = {
                number: tree_map(lambda value, like=parameters[number]: self._like(value, like), values)
                for number, values in numbered["state"].items()
            }
            optimizer.load_state_dict(numbered | {"state": sliced})

    def _like(self, value: Any, live: torch.Tensor | None) -> Any:
        """A whole tensor sliced as the ``live`` one is; anything else as it is."""
        whole = isinstance(value, torch.Tensor) and not isinstance(value, DTensor)
        return spread(value, self._mesh) if whole and isinstance(live, DTensor) and value.shape == live.shape else value
