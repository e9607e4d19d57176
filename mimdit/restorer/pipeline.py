"""MiMDiTPipeline: a restorer with the interface of a diffusers pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Unpack

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from PIL import Image

from mimdit.backbone.codec import PixelCodec
from mimdit.backbone.dit import DiTBackbone
from mimdit.core.canvas import canvas
from mimdit.core.devices import device_named
from mimdit.core.files import replace_when_whole
from mimdit.core.hub import HubOptions, PushToHub
from mimdit.flow import OnStep
from mimdit.restorer.blending import FEATHER, feathered
from mimdit.restorer.image_types import ImageLike, as_list, check_output, from_pixels, to_mask, to_pixels
from mimdit.restorer.pixels import restore_pixels
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sampling import SamplingSettings
from mimdit.restorer.saving import save_restorer
from mimdit.weights import EMBEDDED_RESTORER

ModelMixin = Restorer
"""Diffusers loads a component of another library by its ``from_pretrained`` if that library has the component's class under this name."""

_CODE = "pipeline.py"
"""File that ``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`` runs to find the class."""

Callback = Callable[["MiMDiTPipeline", int, float, dict[str, torch.Tensor]], dict[str, torch.Tensor]]


class MiMDiTPipeline(PushToHub, DiffusionPipeline):
    """A `Restorer` as a diffusers pipeline: ``MiMDiTPipeline.from_pretrained()(image).images[0]``.

    Args:
        restorer: The restorer.
    """

    model_cpu_offload_seq = "restorer"
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012  (the name and type that diffusers reads)

    def __init__(self, restorer: Restorer) -> None:
        super().__init__()
        self.register_modules(restorer=restorer)
        self._interrupt, self._num_timesteps = False, 0

    @property
    def interrupt(self) -> bool:
        """Return true if a callback, or another thread, has set ``_interrupt`` since the last call began."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Number of sampler steps of the last call."""
        return self._num_timesteps

    def __call__(
        self,
        image: ImageLike | list[Image.Image | np.ndarray],
        num_inference_steps: int | None = None,
        *,
        generator: torch.Generator | list[torch.Generator | None] | None = None,
        amount: float = 1.0,
        mask_image: Image.Image | np.ndarray | list[Image.Image | np.ndarray] | None = None,
        feather: int = FEATHER,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        settings: SamplingSettings | None = None,
        **options: Any,
    ) -> ImagePipelineOutput | tuple[list]:
        """Restore one image or several, each at its own size.

        Args:
            image: Pillow images; arrays ``[H, W, 1 or 3]`` of uint8 or uint16; or a float tensor ``[3, H, W]`` or ``[B, 3, H, W]`` in
                0..1. Gray, transparency and 16 bits are kept, and an image with an orientation tag is turned upright.
            num_inference_steps: Sampler steps; None for the restorer's own. ``steps`` is another name for it.
            generator: Source of the noise's seed, drawn anew for each image; a list holds one for each. None, alone or in a list, for the
                settings' seed, which is the same for each image. Excludes ``seed``.
            amount: Share of the restored image, 0..1; the rest is the original, blended in linear light.
            mask_image: White where the image is restored; black pixels are kept. One for all images, or a list.
            feather: Width of the mask's soft edge in pixels, on its white side.
            output_type: ``pil``, of 8 bits for a tensor; ``np`` for a list of arrays with the input's dtype; ``pt`` for a list of float
                tensors ``[3, H, W]`` in 0..1. Gray has one channel in both, and neither has alpha.
            return_dict: If true, return an `ImagePipelineOutput`, otherwise a tuple.
            callback_on_step_end: Called as ``callback(pipeline, step, timestep, {"latents": latents})`` after each sampler step of each
                image, as in diffusers; a `diffusers.callbacks.PipelineCallback` is one, too. ``timestep`` is 1,000 times the noise level
                that the step began at. The latents are a copy, and those in the returned dictionary replace the sampler's. If the
                callback sets ``pipeline._interrupt = True``, sampling ends with that step, and images not yet begun are left out.
            callback_on_step_end_tensor_inputs: Names of the tensors to hand over; only ``latents`` exists.
            settings: How to restore; None for the restorer's own settings.
            **options: Fields of `SamplingSettings` to change, such as ``tile`` or ``steer``, and other arguments of `Restorer.restore`.

        Raises:
            ValueError: ``image`` is of another type, an image has a mode without a defined range, an option is unknown or out of range, or
                the callback returns something other than a dictionary, or latents of another shape.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"callback_on_step_end_tensor_inputs {sorted(unknown)} are unknown; only latents can be handed over")
        overrides = {field.name: options.pop(field.name) for field in fields(SamplingSettings) if field.name in options}
        if None not in (num_inference_steps, steps := overrides.setdefault("steps", num_inference_steps)) and steps != num_inference_steps:
            raise ValueError(f"num_inference_steps={num_inference_steps} and steps={steps} are two names for one setting; give one of them")
        chosen: SamplingSettings = self.restorer.sampling_settings(settings, **overrides)
        if generator is not None and overrides.get("seed") is not None:
            raise ValueError(f"generator and seed={overrides['seed']} both decide the noise; give one of them")
        given = as_list(image)
        check_output(given, output_type)
        generators, masks = _generators(generator, len(given)), _one_each("mask_image", mask_image, len(given))
        self._interrupt, self._num_timesteps = False, chosen.steps
        on_step = self._on_step(callback_on_step_end, callback_on_step_end_tensor_inputs)
        restored = []
        with self.progress_bar(total=len(given)) as bar:  # pyright: ignore[reportCallIssue]  (`torch.compiler.disable` has no types)
            for one, source, mask in zip(given, generators, masks, strict=True):
                own = chosen
                if source is not None:
                    own = replace(chosen, seed=int(torch.randint(2**63 - 1, (), generator=source, device=source.device)))
                pixels, alpha = to_pixels(one)
                shares = None if mask is None else feathered(to_mask(mask), feather)
                result = restore_pixels(self.restorer, pixels, own, amount=amount, mask=shares, on_step=on_step, **options)
                restored.append(from_pixels(result, alpha, output_type))
                bar.update()
                if self._interrupt:
                    break
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=restored) if return_dict else (restored,)

    def _on_step(self, callback: Callback | None, names: Sequence[str]) -> OnStep:
        """Return the sampler's hook that runs a callback of diffusers' form and ends sampling when interrupted."""

        def on_step(step: int, sigma: float, latents: torch.Tensor) -> bool:
            if callback is not None:
                # A copy, because callbacks keep their latents while the sampler overwrites its own.
                handed = {"latents": canvas(*latents.shape, device=latents.device).copy_(latents)} if "latents" in names else {}
                _overwrite(latents, callback(self, step, 1000 * sigma, handed))
            return not self._interrupt

        return on_step

    def enable_sequential_cpu_offload(self, *_: object, **__: object) -> None:
        """Refuse: weights are used outside their modules' ``forward``, where hooks on every layer do not reach.

        Raises:
            ValueError: Always; it names `enable_model_cpu_offload`.
        """
        raise ValueError("a MiMDiTPipeline cannot be offloaded layer by layer; use enable_model_cpu_offload, and tile for large images")

    def save_pretrained(self, save_directory: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write the restorer's folder for `from_pretrained`, with the transformer in ``backbone``.

        With this package installed, diffusers reads it too: ``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)``, or only
        the transformer with ``SD3Transformer2DModel.from_pretrained(folder, subfolder="backbone")``.

        Args:
            save_directory: Folder to write.
            dtype: Precision of the written transformer; None for its own.

        Raises:
            ValueError: The backbone has adapters, or a codec other than `PixelCodec`; the folder cannot hold these.
        """
        backbone = self.restorer.backbone
        if backbone.lora is not None or not isinstance(backbone.codec, PixelCodec):
            remedy = "use Restorer.save_pretrained, and give the backbone to from_pretrained again"
            raise ValueError(f"a pipeline's folder holds no adapters and no {type(backbone.codec).__name__}; {remedy}")
        folder = Path(save_directory)
        save_restorer(self.restorer, folder, average=True, dtype=dtype or backbone.transformer.dtype, complete=True)
        index = {
            "_class_name": [Path(_CODE).stem, MiMDiTPipeline.__name__],
            "_diffusers_version": diffusers.__version__,
            "restorer": [MiMDiTPipeline.__module__, Restorer.__name__],
        }
        with replace_when_whole(folder / _CODE) as path:
            path.write_text(f"from {MiMDiTPipeline.__module__} import {MiMDiTPipeline.__name__}  # noqa: F401\n")
        with replace_when_whole(folder / "model_index.json") as path:
            path.write_text(json.dumps(index, indent=2) + "\n")

    def write_card(self, folder: Path, title: str) -> None:
        """Write the restorer's model card for `push_to_hub`."""
        self.restorer.write_card(folder, title)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path = EMBEDDED_RESTORER,
        *,
        backbone: DiTBackbone | None = None,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        device_map: str | None = None,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        **hub: Unpack[HubOptions],
    ) -> MiMDiTPipeline:
        """Read a folder written by `save_pretrained` or ``mimdit export``; by default the one that comes with the package.

        Args:
            pretrained_model_name_or_path: The folder, the ``owner/name`` of a repository on the Hugging Face hub, or ``embedded`` or
                ``paper`` for those that come with the package.
            backbone: As for `Restorer.from_pretrained`.
            torch_dtype: As for `Restorer.from_pretrained`.
            dtype: Another name for ``torch_dtype``, as in diffusers.
            device_map: Device to place the model on, such as ``cuda``; ``balanced`` is the accelerator, as the model is one component.
            variant: None: a folder holds one variant of the weights.
            use_safetensors: True or None: weights are always in safetensors.
            **hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``; see `mimdit.core.hub.HubOptions`.

        Raises:
            ValueError: The folder lacks a file, the backbone is not the one it was trained on, or an option cannot be met.
        """
        if None not in (dtype, torch_dtype) and dtype != torch_dtype:
            raise ValueError(f"dtype={dtype} and torch_dtype={torch_dtype} are two names for one option; give one of them")
        device = None if device_map is None else _device(device_map)
        if variant is not None:
            raise ValueError(f"variant={variant!r} does not exist: a folder holds one variant; give torch_dtype for another precision")
        if use_safetensors is False:
            raise ValueError("use_safetensors=False cannot be met: weights are always in safetensors")
        precision = torch_dtype if dtype is None else dtype
        pipeline = cls(Restorer.from_pretrained(pretrained_model_name_or_path, backbone=backbone, torch_dtype=precision, **hub))
        return pipeline if device is None else pipeline.to(device)


def _one_each(name: str, given: Any, count: int) -> list:
    """Return ``count`` items: those of a list, or one item for all.

    Raises:
        ValueError: The list has another length.
    """
    if not isinstance(given, list):
        return [given] * count
    if len(given) != count:
        raise ValueError(f"{name} has {len(given)} items for {count} images; give one, or one for each image")
    return given


def _generators(generator: torch.Generator | list[torch.Generator | None] | None, count: int) -> list[torch.Generator | None]:
    """Return the generator of each of ``count`` images.

    Raises:
        ValueError: An item is no generator, or the list has another length.
    """
    each = _one_each("generator", generator, count)
    for one in each:
        if one is not None and not isinstance(one, torch.Generator):
            raise ValueError(f"generator is a {type(one).__name__}; give torch.Generator().manual_seed(…), a list of them, or seed=…")
    return each


def _overwrite(latents: torch.Tensor, outputs: dict[str, torch.Tensor]) -> None:
    """Write the latents that a callback returned, if any, over ``latents [B, C, h, w]``.

    Raises:
        ValueError: The callback returned no dictionary, or latents of another shape.
    """
    if not isinstance(outputs, dict):
        remedy = "return the dictionary that is its last argument, or an empty one"
        raise ValueError(f"callback_on_step_end returned a {type(outputs).__name__}; {remedy}")
    replaced = outputs.get("latents")
    if replaced is None:
        return
    if replaced.shape != latents.shape:
        raise ValueError(f"callback_on_step_end returned latents of shape {[*replaced.shape]}; they must keep theirs, {[*latents.shape]}")
    latents.copy_(replaced)


def _device(device_map: str) -> torch.device:
    """Return the device that a ``device_map`` names.

    Raises:
        ValueError: It names none, or one that is not there.
    """
    try:
        return device_named("auto" if device_map == "balanced" else str(device_map))
    except ValueError as error:
        raise ValueError(f"device_map={device_map!r} cannot be used here; give balanced, cpu, or a device of this machine") from error
