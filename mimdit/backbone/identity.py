"""Identity of frozen weights: checkpoints omit gigabytes that can be loaded again, and store which weights they were."""

from __future__ import annotations

import hashlib
import warnings

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from mimdit.backbone.inner_experts import is_expert
from mimdit.backbone.lora import base_state
from mimdit.backbone.pretrained import Origin

Identity = dict[str, str | None]


def weights_sha256(module: nn.Module) -> str:
    """Return the SHA-256 of names, shapes and values of ``module``'s state without adapters and experts, floats rounded to bf16.

    The rounding makes the digest independent of the precision that the module was loaded with (fp32, bf16-mixed, bf16-true). Adapters and
    experts neither count nor change the names; int8 weights count as their dequantized values.
    """
    digest = hashlib.sha256()
    config = getattr(module, "config", {})
    if (prediction := config.get("prediction_type", "velocity")) != "velocity":  # velocity models keep their digests
        digest.update(f"prediction_type\x1f{prediction}\x1f".encode())
    for name, tensor in sorted((name, tensor) for name, tensor in base_state(module).items() if not is_expert(name)):
        digest.update(f"{name}\x1f{tuple(tensor.shape)}\x1f".encode())
        if isinstance(tensor, DTensor):  # sharded over ranks, which all take part
            tensor = tensor.full_tensor()
        rounded = tensor.detach().dequantize().bfloat16() if tensor.is_floating_point() else tensor.detach()
        digest.update(rounded.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def identity(module: nn.Module) -> Identity:
    """Return ``source`` and ``revision`` of a model, from ``load_pretrained``, and the ``sha256`` of its weights."""
    origin = getattr(module, "origin", Origin("random weights"))
    return {"source": origin.source, "revision": origin.revision, "sha256": weights_sha256(module)}


def check_identity(saved: dict[str, Identity], present: dict[str, Identity]) -> None:
    """Check that the parts of a backbone have the weights that a checkpoint was trained on, wherever they come from.

    Args:
        saved: ``DiTBackbone.frozen_identity`` of the checkpoint.
        present: ``DiTBackbone.frozen_identity`` of the backbone.

    Raises:
        ValueError: The weights of a part differ; the message has both identities.
    """
    for name in saved.keys() & present.keys():
        if saved[name]["sha256"] != present[name]["sha256"]:
            raise ValueError(
                f"the checkpoint was trained on another {name}: it needs {_words(saved[name])}, but this backbone has "
                f"{_words(present[name])}; load it with the {name} it was trained on"
            )


def check_latents(recorded: Identity, codec: nn.Module, place: str) -> None:
    """Check that cached latents were encoded by the backbone's autoencoder.

    Args:
        recorded: The `identity` of the codec that encoded them.
        codec: The backbone's codec.
        place: Location of the latents, for the error.

    Raises:
        ValueError: The codec's weights differ, or it has none; the message has both identities.
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
    """Remove the ``frozen`` weights from a checkpoint and store their identities instead; they can be loaded from their source."""
    checkpoint["frozen"] = identities
    for name in frozen:
        checkpoint["state_dict"].pop(name, None)


def put_back(checkpoint: dict, frozen: dict[str, torch.Tensor], identities: dict[str, Identity]) -> None:
    """Add the ``frozen`` weights to a checkpoint after checking their identities; loading stays strict for all others.

    Raises:
        ValueError: The weights differ from the ones trained on; see `check_identity`.
    """
    if "frozen" in checkpoint:
        check_identity(checkpoint["frozen"], identities)
    else:
        warnings.warn("the checkpoint does not record the backbone that it was trained on; this one is assumed", stacklevel=3)
    for name, tensor in frozen.items():
        checkpoint["state_dict"].setdefault(name, tensor)


def _words(part: Identity) -> str:
    revision = f" at revision {part['revision']}" if part["revision"] else ""
    return f"{part['source']}{revision} (sha256 {part['sha256']})"
