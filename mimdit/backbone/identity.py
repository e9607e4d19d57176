"""Which backbone a checkpoint was trained on: its frozen weights are gigabytes and can be had again, if it is known which they are."""

from __future__ import annotations

import hashlib
import warnings

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from mimdit.backbone.lora import base_state
from mimdit.backbone.pretrained import Origin

Identity = dict[str, str | None]


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 of the names, shapes and values of everything in ``module``'s state but its adapters, floats rounded to bf16.

    The rounding makes it the same whether the module was loaded for fp32, bf16-mixed or bf16-true work; adapters neither enter it nor
    change the names; int8 weights count as the floats that they stand for. (ours)
    """
    digest = hashlib.sha256()
    config = getattr(module, "config", {})
    if (prediction := config.get("prediction_type", "velocity")) != "velocity":  # digests of velocity models stay as they were
        digest.update(f"prediction_type\x1f{prediction}\x1f".encode())
    for name, tensor in sorted(base_state(module).items()):
        digest.update(f"{name}\x1f{tuple(tensor.shape)}\x1f".encode())
        if isinstance(tensor, DTensor):  # sliced over ranks, which all come here
            tensor = tensor.full_tensor()
        rounded = tensor.detach().dequantize().bfloat16() if tensor.is_floating_point() else tensor.detach()
        digest.update(rounded.contiguous().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def identity(module: nn.Module) -> Identity:
    """``source`` and ``revision`` of a model (what ``load_pretrained`` was given and found), and the ``sha256`` of its weights."""
    origin = getattr(module, "origin", Origin("random weights"))
    return {"source": origin.source, "revision": origin.revision, "sha256": weights_sha256(module)}


def check_identity(saved: dict[str, Identity], present: dict[str, Identity]) -> None:
    """Refuse parts of a backbone whose weights are not those that a checkpoint was trained on, wherever they were read from.

    Args:
        saved: The ``DiTBackbone.frozen_identity`` in the checkpoint.
        present: That of the backbone at hand.

    Raises:
        ValueError: The weights of a part are others; both identities are named.
    """
    for name in saved.keys() & present.keys():
        if saved[name]["sha256"] != present[name]["sha256"]:
            raise ValueError(
                f"the checkpoint was trained on another {name}: it knows {_words(saved[name])}, but this backbone has "
                f"{_words(present[name])}; load it with the {name} it was trained on"
            )


def check_latents(recorded: Identity, codec: nn.Module, place: str) -> None:
    """Refuse cached latents that another autoencoder than the backbone's made.

    Args:
        recorded: The `identity` of the codec that made them.
        codec: The backbone's.
        place: Where they are, for the error.

    Raises:
        ValueError: The codec's weights are others, or it has none; both are named.
    """
    present = identity(codec)
    if recorded["sha256"] != present["sha256"]:
        here = _words(present) if codec.state_dict() else f"{type(codec).__name__}, which has no weights"
        raise ValueError(
            f"the latents in {place} are of the autoencoder {_words(recorded)}, but this backbone's codec is {here}; give the backbone the "
            "VAECodec that made them, encode them anew (mimdit shards latents), or train on images (data.latents: false)"
        )


def check_training_latents(datamodule: object, codec: nn.Module) -> None:
    """Refuse a data module whose cached training latents another autoencoder made; see `check_latents`."""
    if (latents := getattr(datamodule, "latent_codec", None)) is not None:
        recorded, place = latents
        check_latents(recorded, codec, place)


def leave_out(checkpoint: dict, frozen: dict[str, torch.Tensor], identities: dict[str, Identity]) -> None:
    """Take the weights named in ``frozen`` out of a checkpoint, but for their identities: they can be had again from where they came."""
    checkpoint["frozen"] = identities
    for name in frozen:
        checkpoint["state_dict"].pop(name, None)


def put_back(checkpoint: dict, frozen: dict[str, torch.Tensor], identities: dict[str, Identity]) -> None:
    """Put ``frozen`` weights back, if they are those it was trained on, so that loading stays strict for all others.

    Raises:
        ValueError: They are others; see `check_identity`.
    """
    if "frozen" in checkpoint:
        check_identity(checkpoint["frozen"], identities)
    else:
        warnings.warn("the checkpoint does not say which backbone it was trained on, and this one is taken for it", stacklevel=3)
    for name, tensor in frozen.items():
        checkpoint["state_dict"].setdefault(name, tensor)


def _words(part: Identity) -> str:
    revision = f" at revision {part['revision']}" if part["revision"] else ""
    return f"{part['source']}{revision} (sha256 {part['sha256']})"
