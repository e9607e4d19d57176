"""A restorer that hands its input back: what is tested is all around it."""

import torch


class Identity:
    """Stands for a `Restorer` in loops over files."""

    device = torch.device("cpu")

    def restore(self, images: torch.Tensor, **settings: object) -> torch.Tensor:
        assert images.dtype == torch.float32 and images.shape[:2] == (1, 3) and 0 <= images.min() <= images.max() <= 1
        return images.clone()
