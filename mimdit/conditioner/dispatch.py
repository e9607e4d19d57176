"""Dispatch of images to their chosen sub-experts as rows, one for each pair of an image and a sub-expert.

All shapes are static: there is no loop over sub-experts or images, and no synchronization with the device to read the number of rows of a
sub-expert. A sub-expert without rows has a gradient of zero, never None. The two ways to multiply rows by the weights of their sub-experts
agree up to rounding:

- ``gather`` copies the weights of every row and multiplies a batch of matrices. It works on any device with any dtype; the copies exist
  only during the product.
- ``grouped`` sorts the rows by sub-expert and multiplies each run of rows with the stack itself (`torch.nn.functional.grouped_mm`); no
  weight is copied, whatever the number of images.

Shape legend: B images, E sub-experts, K chosen per image, R = B * K rows, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

DISPATCHES = ("auto", "gather", "grouped")


@dataclass(frozen=True)
class Sorting:
    """Order of rows that are sorted by sub-expert.

    Attributes:
        ends_E: End of each sub-expert's rows, int32.
        pairs_R: Pair ``b * K + k`` of each row.
        places_R: Row of each pair.
    """

    ends_E: torch.Tensor
    pairs_R: torch.Tensor
    places_R: torch.Tensor


@dataclass(frozen=True)
class Rows:
    """Pairs of an image and one of its sub-experts, either image by image or sorted by sub-expert.

    Attributes:
        indices_R: Sub-expert of each row, int64.
        num_chosen: Number K of sub-experts per image.
        sorting: Order of sorted rows; None for rows image by image.
    """

    indices_R: torch.Tensor
    num_chosen: int
    sorting: Sorting | None = None

    @staticmethod
    def in_order(indices_BK: torch.Tensor) -> Rows:
        """Return rows image by image: row ``b * K + k`` is image b for its k-th sub-expert."""
        return Rows(indices_BK.flatten(), indices_BK.shape[1])

    @staticmethod
    def sort(indices_BK: torch.Tensor, num_experts: int) -> Rows:
        """Return rows sorted by sub-expert, with images in order within each."""
        indices_R, pairs_R = indices_BK.flatten().sort(stable=True)
        counts_E = (indices_R[:, None] == torch.arange(num_experts, device=indices_R.device)).sum(dim=0)
        return Rows(indices_R, indices_BK.shape[1], Sorting(counts_E.cumsum(dim=0).to(torch.int32), pairs_R, pairs_R.argsort()))


def compute_dtype(hidden_states: torch.Tensor) -> torch.dtype:
    """Return the dtype of the products: autocast's if autocast is on, otherwise the dtype of ``hidden_states``."""
    device = hidden_states.device.type
    if not hidden_states.is_meta and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden_states.dtype


def is_grouped(dispatch: str, hidden_states: torch.Tensor, channels: tuple[int, ...], *, otherwise: str = "gather") -> bool:
    """Return true if rows should be sorted by sub-expert and their products grouped.

    Args:
        dispatch: ``grouped``, ``auto``, or the value of ``otherwise``. ``auto`` is grouped in bf16 on CUDA devices of capability 9, where
            one kernel computes all products (others loop over sub-experts and synchronize with the device), and not elsewhere.
        hidden_states: Input of the products.
        channels: Input and output channel counts of the products.
        otherwise: Name of the dispatch that is not grouped.

    Raises:
        ValueError: ``dispatch`` is ``grouped``, but the dtype, the channel counts or compilation in fp32 rules it out.
    """
    if dispatch == otherwise:
        return False
    dtype = compute_dtype(hidden_states)
    multiple = max(1, 16 // dtype.itemsize)
    fits = all(count % multiple == 0 for count in channels)
    if dispatch == "auto":
        return fits and dtype == torch.bfloat16 and _capability(hidden_states.device) == 9
    if dtype == torch.float32 and torch.compiler.is_compiling():
        raise ValueError(f"dispatch 'grouped' cannot be compiled in float32, by PyTorch 2.14; use bf16-mixed, or dispatch: {otherwise}")
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dispatch 'grouped' cannot multiply {dtype}; use float32, bfloat16 or float16, or dispatch: {otherwise}")
    if not fits:
        remedy = f"grouped products in {dtype} need multiples of {multiple} (16 bytes); change dim and hidden, or use dispatch: {otherwise}"
        raise ValueError(f"dispatch 'grouped' does not fit sub-experts of {' and '.join(map(str, channels))} channels: {remedy}")
    return True


def _capability(device: torch.device) -> int | None:
    """Return the major CUDA capability of a GPU, or of the device that stands for one in `mimdit.planning`; None for other devices."""
    return getattr(torch, device.type).get_device_capability(device)[0] if device.type in ("cuda", "simulated") else None
