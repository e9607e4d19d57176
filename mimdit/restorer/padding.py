"""Padding by reflection: images of any size become such that the model can take."""

import torch


def pad_by_reflection(images: torch.Tensor, multiple: int) -> torch.Tensor:
    """Extend ``[B, 3, H, W]`` on the right and at the bottom to multiples of ``multiple``, mirrored as often as a small image needs."""
    height, width = images.shape[2:]
    rows = mirrored(height, -height % multiple, images.device)
    columns = mirrored(width, -width % multiple, images.device)
    return images[:, :, rows][:, :, :, columns] if len(rows) > height or len(columns) > width else images


def mirrored(size: int, extra: int, device: torch.device) -> torch.Tensor:
    """Which of ``size`` positions to take for ``size + extra``: as they come, then back and forth."""
    index = torch.arange(size + extra, device=device) % max(1, 2 * size - 2)
    return torch.where(index < size, index, 2 * size - 2 - index).clamp(0, size - 1)
