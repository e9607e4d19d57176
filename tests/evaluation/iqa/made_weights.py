"""Made-up weight files in the caches that metrics load from, in this process's TORCH_HOME and HF_HOME.

Files for torch have the real shapes, but each tensor is one vector repeated by a stride of 0, so that they take no room; CLIP's archives
hold a small model, whose checksum takes the real one's place.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mimdit.evaluation.iqa import weights
from mimdit.evaluation.iqa.metric import METRICS


def make_weights(name: str) -> None:
    """Make the files of a metric."""
    for file in METRICS[name].files:
        _MAKERS[getattr(file, "repository", file.place.name)](file.place)


def repeated(shape: torch.Size, name: str) -> torch.Tensor:
    """A tensor of a shape whose values differ along its first axis alone, or are those that a normalization begins with."""
    if name.endswith(("running_var", "num_batches_tracked")):
        return torch.full((), 1.0 if name.endswith("var") else 0).expand(shape)
    if not shape:
        return torch.tensor(0.5)
    generator = torch.Generator().manual_seed(len(name) + sum(shape))
    scale = 1 / max(1, np.prod(shape[1:])) if len(shape) > 1 else 0.3
    first = torch.randn(shape[0], generator=generator) * scale
    return first.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)


def save_like(path: Path, build: Callable[[], nn.Module], *, key: str | None = None, only: tuple[str, ...] = ()) -> None:
    """Save made tensors in the shapes of a model, or of its tensors whose names begin with ``only``."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in build().state_dict().items()}
    state = {name: repeated(shape, name) for name, shape in shapes.items() if not only or name.startswith(only)}
    save(path, {key: state} if key else state)


def save(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def _save_niqe(path: Path) -> None:
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    root = rng.normal(size=(36, 36))
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"mu_prisparam": rng.normal(size=(1, 36)), "cov_prisparam": root @ root.T})


def _save_clip(path: Path, model: str, vision_layers: int | tuple[int, ...], width: int, patch: int | None) -> None:
    """A TorchScript archive of a small CLIP; pyiqa compares its checksum with the one in the URL, which becomes that of this file."""
    from pyiqa.archs import clip_model

    torch.manual_seed(0)
    clip = clip_model.CLIP(32, 224, vision_layers, width, patch, 77, 49408, 64, 1, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.script(_Tensors(clip.state_dict())).save(str(path))
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    clip_model._MODELS[model] = f"https://example.invalid/{checksum}/{path.name}"
    weights._CLIP_SHA256[model] = checksum


class _Tensors(nn.Module):
    """Nothing but named tensors."""

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        children: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in state.items():
            child, dot, rest = name.partition(".")
            if dot:
                children.setdefault(child, {})[rest] = tensor
            else:
                self.register_buffer(name, tensor.detach().clone())
        for name, tensors in children.items():
            self.add_module(name, _Tensors(tensors))


def _save_liqe(path: Path) -> None:
    from pyiqa.archs.liqe_arch import LIQE

    model = LIQE(pretrained=False)
    text = path.with_name("liqe_text_feat.pt")
    text.unlink()  # it is of the weights before these
    save(path, {"params": {name: tensor + 0.01 for name, tensor in model.state_dict().items()}})


def _save_clipiqa_vit(path: Path) -> None:
    from pyiqa.archs.clipiqa_arch import CLIPIQA

    model = CLIPIQA("clipiqa+_vitL14_512", "ViT-L/14", pretrained=False, pos_embedding=True)
    save(path, {"params": model.state_dict()})


def _musiq() -> nn.Module:
    from pyiqa.archs.musiq_arch import MUSIQ

    return MUSIQ(pretrained=False)


def _lpips() -> nn.Module:
    from pyiqa.archs.lpips_arch import LPIPS

    return LPIPS(pretrained=False, pnet_rand=True)


def _inception() -> nn.Module:
    from pyiqa.archs import inception

    return inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)


def _torchvision(model: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        import torchvision

        save_like(path, lambda: torchvision.models.get_model(model, weights=None))

    return make


def _save_lpips(path: Path) -> None:
    save(path, {f"lin{level}.model.1.weight": torch.rand(1, width, 1, 1) for level, width in enumerate((64, 192, 384, 256, 256))})


def _save_dists(path: Path) -> None:
    save(path, {name: torch.rand(1, 1475, 1, 1) for name in ("alpha", "beta")})


def _save_vit(place: Path) -> None:
    """The hub's cache of a timm model, whose file is one hole: all zeros."""
    import timm

    with torch.device("meta"):
        state = timm.create_model("vit_base_patch8_224").state_dict()
    header, offset = {}, 0
    for name, tensor in state.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + 4 * tensor.numel()]}
        offset += 4 * tensor.numel()
    text = json.dumps(header).encode()
    snapshot = place / "snapshots" / "made"
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("made")
    with open(snapshot / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(file.tell() + offset)


def _save_maniqa(path: Path) -> None:
    import timm
    from pyiqa.archs import maniqa_arch

    real = timm.create_model
    try:
        with torch.device("meta"):
            vit = real("vit_base_patch8_224")
        timm.create_model = lambda name, pretrained: vit
        shapes = {name: tensor.shape for name, tensor in maniqa_arch.MANIQA(pretrained=False).state_dict().items()}
    finally:
        timm.create_model = real
    integers = {name: shape for name, shape in shapes.items() if name.endswith("relative_position_index")}
    state = {name: repeated(shape, name) for name, shape in shapes.items() if name not in integers}
    save(path, state | {name: torch.zeros((), dtype=torch.int64).expand(shape) for name, shape in integers.items()})


_MAKERS: dict[str, Callable[[Path], None]] = {
    "alexnet-owt-7be5be79.pth": _torchvision("alexnet"),
    "vgg16-397923af.pth": _torchvision("vgg16"),
    "LPIPS_v0.1_alex-df73285e.pth": _save_lpips,
    "DISTS_weights-f5e65c96.pth": _save_dists,
    "niqe_modelparameters.mat": _save_niqe,
    "ViT-B-32.pt": lambda path: _save_clip(path, "ViT-B/32", 1, 64, 32),
    "ViT-L-14.pt": lambda path: _save_clip(path, "ViT-L/14", 1, 64, 14),
    "RN50.pt": lambda path: _save_clip(path, "RN50", (1, 1, 1, 1), 8, None),
    "liqe_koniq.pt": _save_liqe,
    "CLIPIQA%2B_ViTL14_512-e66488f2.pth": _save_clipiqa_vit,
    "musiq_koniq_ckpt-e95806b9.pth": lambda path: save_like(path, _musiq),
    "timm/vit_base_patch8_224.augreg2_in21k_ft_in1k": _save_vit,
    "MANIQA_PIPAL-ae6d356b.pth": _save_maniqa,
    "pt_inception-2015-12-05-6726825d.pth": lambda path: save_like(path, _inception),
}


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process whose caches are in a folder."""
    return os.environ | {"TORCH_HOME": str(folder / "torch"), "HF_HOME": str(folder / "hf"), "HF_HUB_CACHE": str(folder / "hf" / "hub")}
