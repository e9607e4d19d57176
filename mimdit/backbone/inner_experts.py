"""Experts inside the transformer: their settings, where they go, and their file."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from diffusers import ModelMixin
from diffusers.models.attention import FeedForward
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mimdit.backbone.feed_forward_moe import ExpertFeedForward, TokenExperts, collected_gates
from mimdit.backbone.pretrained import EXPERTS as FILE
from mimdit.backbone.token_dispatch import DISPATCHES
from mimdit.core.files import replace_when_whole
from mimdit.routing.token_routing import OnTokens, TokenRouting, token_losses

_METADATA = "inner_experts"
_MARK = ".ff.experts."


@dataclass
class InnerExperts:
    """Experts in every n-th feed-forward of a pretrained transformer, chosen token by token. Not in the paper.

    The feed-forward itself stays, as the shared expert; at initialization the experts add zero. See `mimdit.backbone.feed_forward_moe`.

    Args:
        every: Distance of the blocks with experts: 2 for blocks 1, 3, 5, … (from 0), 1 for all.
        num_experts: Experts per feed-forward. One, with ``top_k=1`` and ``granularity=1``, is a dense feed-forward of twice the width.
        top_k: Experts per token, from 1 to ``num_experts``.
        granularity: Divisor of the feed-forward's hidden width; each expert is this much narrower.
        balance: Weight of the Switch loss ``E * sum_i f_i P_i`` over the tokens of all ranks; see `mimdit.routing.token_routing`.
        z: Weight of the router z-loss over the tokens.
        dispatch: ``grouped``, ``loop`` or ``auto``; see `mimdit.backbone.token_dispatch`.
        pretrained: Folder of trained experts to start from, written by ``mimdit export``.

    Raises:
        ValueError: A value is out of range or unknown.
    """

    every: int = 2
    num_experts: int = 8
    top_k: int = 2
    granularity: int = 2
    balance: float = 0.01
    z: float = 0.001
    dispatch: str = "auto"
    pretrained: str | None = None

    def __post_init__(self) -> None:
        """Check what does not depend on the transformer."""
        for name, least in {"every": 1, "num_experts": 1, "top_k": 1, "granularity": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"moe {name}={getattr(self, name)} must be at least {least}; leave moe out for no experts")
        if self.top_k > self.num_experts:
            raise ValueError(f"moe top_k={self.top_k} exceeds num_experts={self.num_experts}; lower it, or raise num_experts")
        for name in ("balance", "z"):
            if getattr(self, name) < 0:
                raise ValueError(f"moe {name}={getattr(self, name)} is negative; use 0 to switch the loss off")
        if self.dispatch not in DISPATCHES:
            raise ValueError(f"moe dispatch {self.dispatch!r} is unknown; choose one of {', '.join(DISPATCHES)}")


def add_experts(transformer: ModelMixin, moe: InnerExperts) -> None:
    """Put experts, in fp32, into every ``moe.every``-th feed-forward; the transformer's output is unchanged to the bit.

    Raises:
        ValueError: No block is reached, or the experts do not fit the feed-forwards or the file of ``moe.pretrained``.
    """
    blocks = [*transformer.transformer_blocks]
    chosen = blocks[moe.every - 1 :: moe.every]
    if not chosen:
        raise ValueError(f"moe every={moe.every} reaches none of the transformer's {len(blocks)} blocks; use {len(blocks)} or less")
    for block in chosen:
        sizes = {"num_experts": moe.num_experts, "top_k": moe.top_k, "granularity": moe.granularity}
        shared = block.ff
        assert isinstance(shared, FeedForward), "of the families' blocks, and there are no experts yet"
        block.ff = ExpertFeedForward(shared, TokenExperts(shared, **sizes, dispatch=moe.dispatch))
    if moe.pretrained is not None:
        load_experts(transformer, moe.pretrained, moe)


def is_expert(name: str) -> bool:
    """Return true if ``name`` is the name of a weight of the experts or their routers."""
    return _MARK in name


def blocks_with_experts(transformer: ModelMixin) -> tuple[int, ...]:
    """Return the indices of the blocks with experts."""
    return tuple(index for index, block in enumerate(transformer.transformer_blocks) if isinstance(block.ff, ExpertFeedForward))


@contextmanager
def watched_tokens(transformer: ModelMixin, sigma: torch.Tensor, on_tokens: OnTokens | None) -> Iterator[None]:
    """Call ``on_tokens`` with the routing of the forward pass inside the context, at ``sigma [B]``; nothing without experts or for None."""
    if on_tokens is None or not (blocks := blocks_with_experts(transformer)):
        yield
        return
    with collected_gates() as gates:
        yield
    logits_LTE, indices_LTK = torch.stack([gate.logits_TE for gate in gates]), torch.stack([gate.indices_TK for gate in gates])
    on_tokens(TokenRouting(logits_LTE, indices_LTK, sigma.float(), blocks))


def expert_losses(moe: InnerExperts | None, routings: Iterable[TokenRouting]) -> dict[str, torch.Tensor]:
    """Return the weighted losses of the token routers by name; empty without experts, or where the transformer did not run."""
    if moe is None:
        return {}
    return {name: loss for routing in routings for name, loss in token_losses(routing, balance=moe.balance, z=moe.z).items()}


@contextmanager
def without_experts(transformer: ModelMixin) -> Iterator[None]:
    """Take the experts out for the duration of the context: the transformer is then the class that diffusers saves and loads."""
    taken = {index: transformer.transformer_blocks[index].ff for index in blocks_with_experts(transformer)}
    for index, feed_forward in taken.items():
        transformer.transformer_blocks[index].ff = feed_forward.shared()
    try:
        yield
    finally:
        for index, feed_forward in taken.items():
            transformer.transformer_blocks[index].ff = feed_forward


def copy_experts(source: ModelMixin, target: ModelMixin) -> None:
    """Put copies of the experts of ``source`` into the plain transformer ``target``."""
    for index in blocks_with_experts(source):
        block = target.transformer_blocks[index]
        block.ff = ExpertFeedForward(block.ff, copy.deepcopy(source.transformer_blocks[index].ff.experts))


def save_experts(transformer: ModelMixin, folder: str | Path, moe: InnerExperts) -> None:
    """Write experts and routers, fp32, with their settings to `FILE` in ``folder``."""
    weights = {name: tensor.float().contiguous() for name, tensor in transformer.state_dict().items() if is_expert(name)}
    settings = {name: value for name, value in asdict(moe).items() if name != "pretrained"}
    Path(folder).mkdir(parents=True, exist_ok=True)
    with replace_when_whole(Path(folder) / FILE) as path:
        save_file(weights, path, metadata={"format": "pt", _METADATA: json.dumps(settings)})


def read_settings(folder: str | Path) -> InnerExperts:
    """Return the settings of the experts in ``folder``, which name it as ``pretrained``.

    Raises:
        ValueError: The file is missing or broken, or has no settings.
    """
    return replace(_read(Path(folder) / FILE, with_weights=False)[1], pretrained=str(folder))


def with_saved(moe: InnerExperts | None, transformer: ModelMixin) -> InnerExperts | None:
    """Return ``moe``, which starts from the experts in the folder that the transformer was loaded from unless it names another folder.

    Without ``moe`` return the settings of the experts in that folder; None if there are none.
    """
    folder = transformer.config.get("_name_or_path", "")
    if not folder or not (Path(folder) / FILE).is_file():
        return moe
    if moe is None:
        return read_settings(folder)
    return moe if moe.pretrained is not None else replace(moe, pretrained=str(folder))


def load_or_add(transformer: ModelMixin, folder: str | Path, moe: InnerExperts | None) -> InnerExperts:
    """Load the experts in ``folder`` into ``transformer``, which gets such experts where ``moe`` is None; return their settings."""
    if moe is None:
        moe = read_settings(folder)
        add_experts(transformer, moe)
    else:
        load_experts(transformer, folder, moe)
    return moe


def load_experts(transformer: ModelMixin, folder: str | Path, moe: InnerExperts) -> None:
    """Load the experts in ``folder`` into those of ``transformer``, which ``moe`` describes.

    Raises:
        ValueError: The file is missing or broken, or its experts are in other blocks, of another size, or chosen in another number.
    """
    weights, settings = _read(Path(folder) / FILE)
    live = {name: tensor for name, tensor in transformer.state_dict().items() if is_expert(name)}
    alike = {name: tensor.shape for name, tensor in live.items()} == {name: tensor.shape for name, tensor in weights.items()}
    if not alike or settings.top_k != moe.top_k:
        theirs, ours = (
            ", ".join(f"{name}={getattr(s, name)}" for name in ("every", "num_experts", "top_k", "granularity")) for s in (settings, moe)
        )
        raise ValueError(
            f"the experts in {folder} do not fit: they have {theirs}, these have {ours}; set these alike, on the same backbone"
        )
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(weights[name])


def _read(file: Path, *, with_weights: bool = True) -> tuple[dict[str, torch.Tensor], InnerExperts]:
    remedy = "give a folder that mimdit export wrote from a backbone with moe"
    if not file.is_file():
        raise ValueError(f"{file} does not exist; {remedy}")
    try:
        with safe_open(file, "pt") as opened:
            weights = {name: opened.get_tensor(name) for name in (opened.keys() if with_weights else ())}
            settings = json.loads((opened.metadata() or {}).get(_METADATA, "null"))
        return weights, InnerExperts(**settings)
    except (SafetensorError, json.JSONDecodeError, TypeError) as error:  # TypeError: no settings, or one unknown to this version
        raise ValueError(f"{file} cannot be read as experts ({error}); {remedy}") from error
