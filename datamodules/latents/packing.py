"""Latents as bytes: safetensors, which holds tensors and nothing that could run."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def pack_latents(lq: torch.Tensor, gt: torch.Tensor) -> bytes:
    """The bytes of a crop's two posteriors ``[2C, h, w]``."""
    return save({"lq": lq.contiguous(), "gt": gt.contiguous()})


def unpack_latents(data: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    """``lq`` and ``gt`` ``[2C, h, w]`` as they were packed.

    Raises:
        ValueError: The bytes are cut short or damaged, or hold anything but two float tensors of one shape ``[2C, h, w]``.
    """
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(f"they are not whole safetensors ({error})") from error
    found = ", ".join(f"{name} {tensor.dtype} {list(tensor.shape)}" for name, tensor in sorted(tensors.items()))
    if tensors.keys() == {"lq", "gt"}:
        lq, gt = tensors["lq"], tensors["gt"]
        if lq.shape == gt.shape and lq.dtype == gt.dtype and lq.dtype in _DTYPES and lq.ndim == 3 and lq.shape[0] % 2 == 0:
            return lq, gt
    raise ValueError(f"they hold {found or 'nothing'} in place of lq and gt of one shape [2C, h, w]")
