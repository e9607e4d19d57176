"""FSDP2Strategy: weights, gradients, optimizer states and the moving average sharded over all ranks, or over groups of them (HSDP)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities.optimizer import _optimizers_to_device
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, zeros
from torch.utils._pytree import tree_map

from mimdit.core.connected_trainer import connected
from mimdit.distributed.checkpoint_files import read_checkpoint_file
from mimdit.distributed.gathered_evaluation import STEPS, GatheredEvaluation
from mimdit.distributed.optimizer_states import by_name, by_number, check_names, parameter_names
from mimdit.distributed.sharded_checkpoint import read_sharded, write_sharded


class FSDP2Strategy(ModelParallelStrategy):
    """Fully sharded data parallelism (FSDP2, arXiv 2304.11277) over all ranks or inside nodes.

    It is for models whose full copy does not fit on one rank.

    Set ``trainer.strategy: {class_path: mimdit.distributed.FSDP2Strategy}`` in a config, or ``--trainer.strategy=fsdp2`` on the command
    line. The model's ``shard_units()`` lists the modules that are gathered together. The model is sharded before the optimizer is built. A
    frozen backbone is sharded too, in its own precision (``backbone.dtype: bfloat16``). Trainable weights stay in fp32;
    ``trainer.precision: bf16-mixed`` computes in bf16. Checkpoints are folders (`mimdit.distributed.sharded_checkpoint`); folders of any
    number of ranks and single files of any strategy can be read.

    In training every forward pass is a collective, so all ranks must run the same number of them. In validation, test and prediction the
    weights are gathered once, before the first batch, so that ranks may have images of other sizes and in other numbers.

    Args:
        process_group_backend: ``nccl`` or ``gloo``; None selects by device.
        timeout_minutes: Minutes that a rank waits for the others before the process group fails.
        shard_over: Ranks that share one copy of the weights. ``all`` shards over all ranks. ``node`` shards over the ranks of a node and
            keeps a copy on each node (HSDP): gathers stay inside nodes, and only gradients cross. A number shards over as many consecutive
            ranks; it must divide the number of ranks.
        gather_for_validation: If true, gather the weights once for a whole validation, test or prediction. Each rank then holds a full
            copy of the weights that forward passes read: 4 bytes each in fp32, 2 in bf16, without gradients, optimizer states and average.
            If false, weights are gathered in every forward pass, for models whose copy does not fit on a rank; then the ranks must have
            equally many images of equal sizes, or they wait for each other until ``timeout_minutes`` have passed.
        bf16_gathers: If true, gather the weights of the units in bf16, which halves the bytes of fp32 weights; gradients are still reduced
            in fp32, and weights outside all units, such as the routers, are still gathered in fp32. Results change within the rounding of
            bf16. Needs ``trainer.precision: bf16-mixed``.

    Raises:
        ValueError: ``shard_over`` is neither ``all``, ``node`` nor a positive number, or, at the start, does not divide the ranks.
    """

    def __init__(
        self,
        *,
        process_group_backend: str | None = None,
        timeout_minutes: float = 30.0,
        shard_over: Literal["all", "node"] | int = "all",
        gather_for_validation: bool = True,
        bf16_gathers: bool = False,
    ) -> None:
        if shard_over not in ("all", "node") and not (isinstance(shard_over, int) and shard_over > 0):
            raise ValueError(f"shard_over={shard_over!r} is neither all, node nor a positive number of ranks")
        super().__init__(process_group_backend=process_group_backend, timeout=timedelta(minutes=timeout_minutes))
        self.shard_over: Literal["all", "node"] | int = shard_over
        self.gather_for_validation, self.bf16_gathers = gather_for_validation, bf16_gathers
        self._shard_mesh: DeviceMesh | None = None

    def setup_environment(self) -> None:
        """Put all ranks into one data-parallel group; with Lightning's defaults all ranks of a node would get the same samples.

        Raises:
            ValueError: ``shard_over`` does not divide the number of ranks.
        """
        world = self.num_nodes * self.num_processes
        copies = copies_of_weights(self.shard_over, world, self.num_processes)
        self._data_parallel_size, self._tensor_parallel_size = world, 1
        super().setup_environment()
        self._shard_mesh = self.device_mesh["data_parallel"]
        if copies > 1:
            shape, names = (copies, world // copies), ("replicate", "shard")
            self._shard_mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=names)

    def setup(self, trainer: L.Trainer) -> None:
        """Shard the model, then build its optimizer, because sharding replaces the parameters.

        Raises:
            ValueError: The model has no ``shard_units()``, or ``bf16_gathers`` is true in another precision than bf16-mixed.
        """
        if self.bf16_gathers and self.precision_plugin.precision != "bf16-mixed":
            precision = self.precision_plugin.precision
            raise ValueError(f"bf16_gathers needs trainer.precision: bf16-mixed, which casts inputs to the weights; it is {precision}")
        assert self.accelerator is not None and self.model is not None, "the Trainer connects both before it sets up its strategy"
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        shard(self._connected_module, self._mesh, bf16_gathers=self.bf16_gathers)
        callbacks = connected(trainer).callbacks
        if self.gather_for_validation and not any(isinstance(callback, GatheredEvaluation) for callback in callbacks):
            callbacks.insert(0, GatheredEvaluation())
        self.model_to_device()
        self.barrier()
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()
        if fitting:
            _optimizers_to_device(self.optimizers, self.root_device)

    @property
    def _connected_module(self) -> L.LightningModule:
        module = self.lightning_module
        assert module is not None, "the Trainer connects it before it sets up its strategy"
        return module

    @property
    def _mesh(self) -> DeviceMesh:
        assert self._shard_mesh is not None, "setup_environment has made it"
        return self._shard_mesh

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Return true: Lightning restores optimizers by `load_optimizer_state_dict`, as for other strategies."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return this rank's slices of the state dict."""
        return self._connected_module.state_dict()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return this rank's slices of the optimizer state, by parameter name."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        return by_name(optimizer.state_dict(), parameter_names(optimizer, self._connected_module))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        """Write a sharded folder; a collective.

        Raises:
            ValueError: ``storage_options`` are given.
        """
        if storage_options is not None:
            raise ValueError("FSDP2Strategy writes checkpoints to a file system that all ranks share and takes no storage_options")
        write_sharded(checkpoint, self.broadcast(filepath))

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read this rank's slices of a folder, or a whole single file."""
        path = self.broadcast(checkpoint_path)
        if Path(path).is_dir():
            return read_sharded(path, self._zeros)
        return read_checkpoint_file(path, weights_only=weights_only is not False, mmap=True)  # slices are copied

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load the weights that `load_checkpoint` read; the module has added the frozen ones that its checkpoints omit."""
        live = self._connected_module.state_dict()
        state = {name: self._like(tensor, live.get(name)) for name, tensor in checkpoint["state_dict"].items()}
        self._connected_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load optimizer states, by name or by number, whole or sharded."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            check_names(state, parameter_names(optimizer, self._connected_module))
            numbered = by_number(state)
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            sliced = {
                number: tree_map(lambda value, like=parameters[number]: self._like(value, like), values)
                for number, values in numbered["state"].items()
            }
            optimizer.load_state_dict(numbered | {"state": sliced})

    def _like(self, value: Any, live: torch.Tensor | None) -> Any:
        """Return a whole tensor sharded like ``live``; return anything else unchanged."""
        whole = isinstance(value, torch.Tensor) and not isinstance(value, DTensor)
        return local_slice(value, self._mesh) if whole and isinstance(live, DTensor) and value.shape == live.shape else value

    def _zeros(self, size: torch.Size, dtype: torch.dtype) -> DTensor:
        """Return zeros sharded as `shard` shards a weight of this size."""
        return zeros(size, dtype=dtype, device_mesh=self._mesh, placements=placements(size, self._mesh))


def copies_of_weights(shard_over: Literal["all", "node"] | int, world: int, ranks_of_node: int) -> int:
    """Return how many copies of the weights ``world`` ranks hold, each sharded over ``shard_over`` of them.

    Raises:
        ValueError: ``shard_over`` does not divide ``world``.
    """
    ranks = shard_over if isinstance(shard_over, int) else {"all": world, "node": ranks_of_node}[shard_over]
    if world % ranks:
        raise ValueError(f"shard_over={ranks} does not divide the {world} ranks; give a divisor, node or all")
    return world // ranks


def shard(module: L.LightningModule, mesh: DeviceMesh, *, bf16_gathers: bool = False) -> None:
    """Shard ``module`` over the ranks of ``mesh``; a module that is already sharded is left unchanged.

    Each weight is sharded over `shard_dimension`. A 1-D mesh shards over all its ranks. A 2-D mesh shards over its second dimension and
    keeps a copy for each index of its first.

    ``module.shard_units()`` lists the units: each is a list of sub-modules whose weights are gathered only while they run. Trainable
    weights outside all units are gathered for the whole step. Frozen weights outside all units stay whole on every rank (the codec, whose
    methods are not ``forward``). With ``bf16_gathers`` units are gathered in bf16 and their gradients reduced in fp32.

    Raises:
        ValueError: The module has no ``shard_units()``.
    """
    if isinstance(module, FSDPModule):
        return
    shard_units: Callable[[], list[list[nn.Module]]] | None = getattr(module, "shard_units", None)
    if shard_units is None:
        raise ValueError(
            f"FSDP2Strategy cannot shard {type(module).__name__}: it has no shard_units(); add the method, or use strategy: ddp"
        )
    # The warning concerns in-place sums, and there are none here; tests/distributed/test_agreement.py would fail if there were.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    units = shard_units()
    _start_alike(module, mesh)
    # The root is also resharded after its forward pass. In validation no backward pass would do it, and the moving average could not be
    # swapped with gathered weights.
    ranks = mesh.size(-1)
    options = {
        "mesh": mesh,
        "reshard_after_forward": True,
        "shard_placement_fn": lambda parameter: Shard(shard_dimension(parameter.shape, ranks)),
    }
    # Inputs stay as they are: autocast casts them where a product needs it, and noise levels would lose most of their digits in bf16.
    bf16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = bf16 if bf16_gathers else MixedPrecisionPolicy()
    for unit in units:
        fully_shard(unit if len(unit) > 1 else unit[0], mp_policy=policy, **options)
    whole = {parameter for parameter in module.parameters() if not parameter.requires_grad and not isinstance(parameter, DTensor)}
    fully_shard(module, ignored_params=whole, **options)
    for name in STEPS:
        if name == "restore" and hasattr(module, name) or is_overridden(name, module, L.LightningModule):
            register_fsdp_forward_method(module, name)


def shard_dimension(size: Sequence[int], ranks: int) -> int:
    """Return the first dimension of ``size`` that ``ranks`` divides, so that gathers need no padding; 0 if there is none.

    FSDP2 pads only dimension 0, so that is also the one with the least padding where none divides. A stack of 8 experts
    ``[8, out, in]`` would be padded eightfold on 64 ranks if it were sharded over dimension 0.
    """
    return next((dimension for dimension, length in enumerate(size) if length % ranks == 0), 0)


def placements(size: Sequence[int], mesh: DeviceMesh) -> list[Placement]:
    """Return the placements on ``mesh`` of a weight of ``size``: sharded over its last dimension, replicated over any other."""
    return [*[Replicate()] * (mesh.ndim - 1), Shard(shard_dimension(size, mesh.size(-1)))]


def local_slice(tensor: torch.Tensor, mesh: DeviceMesh) -> DTensor:
    """Return this rank's slice of a whole ``tensor``, sharded as `shard` shards weights; a copy, without communication."""
    tensor = tensor.contiguous()
    ranks, rank = mesh.size(-1), mesh.get_local_rank(mesh.ndim - 1)
    slices = tensor.chunk(ranks, dim=shard_dimension(tensor.shape, ranks))
    own = slices[rank] if rank < len(slices) else tensor[:0]
    own = own.to(mesh.device_type, copy=True, memory_format=torch.contiguous_format)
    return DTensor.from_local(own, mesh, placements(tensor.shape, mesh), run_check=False, shape=tensor.shape, stride=tensor.stride())


def _start_alike(module: L.LightningModule, mesh: DeviceMesh) -> None:
    """Broadcast the weights of rank 0, as DDP does; without a common seed each rank would keep a slice of a different model."""
    for tensor in (*module.parameters(), *module.buffers()):
        whole = tensor.detach().to(mesh.device_type).contiguous()
        dist.broadcast(whole, 0)
        tensor.data.copy_(whole)
