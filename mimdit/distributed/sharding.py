"""Sharding a module over ranks with FSDP2 (`torch.distributed.fsdp.fully_shard`): each rank keeps a slice of every weight."""

from __future__ import annotations

import warnings

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard

STEPS = ("training_step", "validation_step", "test_step", "predict_step", "restore")
"""Methods that Lightning, or a user, calls instead of ``forward``: FSDP2 would not see them."""


def shard(module: L.LightningModule, mesh: DeviceMesh) -> None:
    """Shard ``module`` over the ranks of a 1-D ``mesh``; a module that is sharded already is left alone.

    ``module.shard_units()`` lists what is gathered together: each entry is a list of sub-modules whose weights are whole only while these
    run. What trains outside of all units is gathered for the whole step; what is frozen outside of them stays whole on every rank (the
    codec, whose methods are not ``forward``).

    Raises:
        ValueError: The module does not say what its units are.
    """
    if isinstance(module, FSDPModule):
        return
    if not hasattr(module, "shard_units"):
        raise ValueError(
            f"FSDP2Strategy does not know how to shard {type(module).__name__}: it has no shard_units(); add it, or use strategy: ddp"
        )
    # The warning is of sums in place, and all of ours are out of place: tests/distributed/test_agreement.py would see it.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    units = module.shard_units()
    _start_alike(module, mesh)
    # The root is sharded again after its forward, too: in validation no backward pass would do it, and the moving average could not
    # change places with weights that are whole.
    options = {"mesh": mesh, "reshard_after_forward": True}
    for unit in units:
        fully_shard(unit if len(unit) > 1 else unit[0], **options)
    whole = {parameter for parameter in module.parameters() if not parameter.requires_grad and not isinstance(parameter, DTensor)}
    fully_shard(module, ignored_params=whole, **options)
    for name in STEPS:
        if name == "restore" and hasattr(module, name) or is_overridden(name, module, L.LightningModule):
            register_fsdp_forward_method(module, name)


def spread(tensor: torch.Tensor, mesh: DeviceMesh) -> DTensor:
    """This rank's slice of a ``tensor`` that every rank has, as `shard` slices weights; a copy, and no rank is asked."""
    tensor = tensor.contiguous()
    slices, rank = tensor.chunk(mesh.size()), mesh.get_local_rank()
    own = slices[rank] if rank < len(slices) else tensor[:0]
    own = own.to(mesh.device_type, copy=True)
    return DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=tensor.shape, stride=tensor.stride())


def _start_alike(module: L.LightningModule, mesh: DeviceMesh) -> None:
    """Give every rank the weights of rank 0, as DDP does: without a common seed each would keep a slice of another model."""
    for tensor in (*module.parameters(), *module.buffers()):
        whole = tensor.detach().to(mesh.device_type).contiguous()
        dist.broadcast(whole, 0)
        tensor.data.copy_(whole)
