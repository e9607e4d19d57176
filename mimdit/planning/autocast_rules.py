"""Autocast of CUDA devices for the simulated GPU, whose tensors PyTorch's own kernels pass over.

The operators are those of PyTorch's ``ATen/autocast_mode.h`` (2.14), without recurrent cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves, tree_map

LOWER = [
    "_convolution.deprecated", "_convolution", "conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d", "conv_transpose2d.input",
    "conv_transpose3d.input", "convolution", "prelu", "addmm", "addmv", "addr", "matmul", "einsum", "mm", "mv", "linalg_vecdot",
    "linear", "addbmm", "baddbmm", "bmm", "chain_matmul", "linalg_multi_dot", "_scaled_dot_product_flash_attention",
    "scaled_dot_product_attention",
]  # fmt: skip
"""Operators that compute in autocast's type."""

SINGLE = [
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh", "tan",
    "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "softplus", "layer_norm", "native_layer_norm", "rms_norm", "group_norm",
    "frobenius_norm.dim", "nuclear_norm", "nuclear_norm.dim", "cosine_similarity", "poisson_nll_loss", "cosine_embedding_loss",
    "nll_loss", "nll_loss2d", "hinge_embedding_loss", "kl_div", "l1_loss", "smooth_l1_loss", "huber_loss", "mse_loss",
    "margin_ranking_loss", "multilabel_margin_loss", "soft_margin_loss", "triplet_margin_loss", "multi_margin_loss",
    "binary_cross_entropy_with_logits", "dist", "pdist", "cdist", "renorm", "logsumexp", "upsample_nearest1d",
    "_upsample_nearest_exact1d", "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_nearest3d", "_upsample_nearest_exact3d",
    "upsample_linear1d", "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_trilinear3d", "upsample_bicubic2d",
    "_upsample_bicubic2d_aa", "norm.Scalar", "norm.ScalarOpt_dim",
]  # fmt: skip
"""Operators that compute in fp32."""

SINGLE_UNLESS_GIVEN = [
    "prod", "prod.dim_int", "softmax.int", "log_softmax.int", "cumprod", "cumsum", "linalg_vector_norm", "linalg_matrix_norm",
    "linalg_matrix_norm.str_ord", "sum", "sum.dim_IntList",
]  # fmt: skip
"""Operators that compute in fp32 unless a ``dtype`` is given."""

PROMOTED = [
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put", "tensordot", "scatter_add",
]  # fmt: skip
"""Operators that compute in the widest type among their arguments."""

_KEY = "AutocastPrivateUse1"
_HALF = (torch.bfloat16, torch.float16)


def register(device_type: str) -> torch.library.Library:
    """Register the rules for the device that stands for a GPU; they hold while the returned library lives.

    Weights are cast once in each autocast region, as PyTorch does; leaving the outermost region forgets the casts.
    """
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(torch.library.fallthrough_kernel, _KEY)
    library = torch.library.Library("aten", "IMPL")
    library._fallback = fallback  # type: ignore[attr-defined]  # lives as long
    casts = _Casts(device_type)
    rules: dict[str, Callable[[Any, tuple, dict], tuple[tuple, dict]]] = {
        **dict.fromkeys(LOWER, lambda _, args, kwargs: casts.to(torch.get_autocast_dtype(device_type), args, kwargs)),
        **dict.fromkeys(SINGLE, lambda _, args, kwargs: casts.to(torch.float32, args, kwargs)),
        **dict.fromkeys(SINGLE_UNLESS_GIVEN, casts.single_unless_given),
        **dict.fromkeys(PROMOTED, lambda _, args, kwargs: casts.to(casts.widest(args), args, kwargs)),
    }
    for name, rule in rules.items():
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
        library.impl(operator, _kernel(operator, rule), _KEY)
    return library


def _kernel(operator: Any, rule: Callable[[Any, tuple, dict], tuple[tuple, dict]]) -> Callable[..., Any]:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _KEY))

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            args, kwargs = rule(operator, args, kwargs)
            return operator(*args, **kwargs)

    return call


class _Casts:
    """Casts of arguments to another type."""

    def __init__(self, device_type: str) -> None:
        self.device_type = device_type
        self.weights: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        clear = torch.clear_autocast_cache

        def clear_both() -> None:
            clear()
            self.weights.clear()

        torch.clear_autocast_cache = clear_both  # called by the outermost `torch.autocast` when it ends

    def to(self, dtype: torch.dtype, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return tree_map(lambda value: self._cast(value, dtype), (args, kwargs))

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if not self._eligible(value) or value.dtype == dtype:
            return value
        if dtype not in _HALF or not (value.requires_grad and value.is_leaf and value.dtype == torch.float32 and not value._is_view()):
            return value.to(dtype)
        if id(value) not in self.weights:
            self.weights[id(value)] = (value, value.to(dtype))
        return self.weights[id(value)][1]

    def _eligible(self, value: Any) -> bool:
        return (
            isinstance(value, torch.Tensor)
            and (value.fake_device if isinstance(value, FakeTensor) else value.device).type == self.device_type
            and value.is_floating_point()
            and value.dtype != torch.float64
        )

    def single_unless_given(self, operator: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Return the arguments, in fp32 unless they name a type or the first one is of another kind."""
        places = [place for place, argument in enumerate(operator._schema.arguments) if argument.name == "dtype"]
        given = kwargs.get("dtype") is not None or (places and len(args) > places[0] and args[places[0]] is not None)
        if given or not self._eligible(args[0]):
            return args, kwargs
        return args, kwargs | {"dtype": torch.float32}

    def widest(self, args: tuple) -> torch.dtype:
        """Return fp32 where an argument is fp32, else autocast's type."""
        leaves = [leaf for leaf in tree_leaves(args) if self._eligible(leaf)]
        return torch.float32 if any(leaf.dtype == torch.float32 for leaf in leaves) else torch.get_autocast_dtype(self.device_type)
