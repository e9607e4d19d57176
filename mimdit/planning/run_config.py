"""Facts of a parsed config that a plan needs: strategy, precision, batches, length, data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PRECISIONS = {"None": "32-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}
_KNOWN = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true")


@dataclass(frozen=True)
class RunConfig:
    """Facts of a config of ``mimdit fit``.

    Attributes:
        strategy: ``ddp`` or ``fsdp2``.
        shard_over: Ranks that share a copy of the weights under FSDP2: ``all``, ``node`` or a number.
        broadcast_buffers: If true, DDP sends all buffers from rank 0 at each forward pass.
        bucket_views: If true, DDP's gradients are views of its buckets.
        precision: The Trainer's precision.
        clip: Largest norm of the gradients; None for no clipping.
        window: Micro-batches of an optimizer step.
        max_steps: Optimizer steps; None where the config does not limit them.
        batch_size: Images of a rank and micro-batch.
        crop: Side of the crops in pixels.
        crops: Crops of a decoded image.
        workers: Data processes of a rank.
        train: Places of the training data.
        compiled: If true, blocks of backbone or conditioner are compiled.
        checkpointing: If true, blocks of backbone and conditioner recompute their activations.
        sampling_steps: Steps of the sampler in validation; 0 where there is no validation or no sampler.
    """

    strategy: str
    shard_over: str | int
    broadcast_buffers: bool
    bucket_views: bool
    precision: str
    clip: float | None
    window: int
    max_steps: int | None
    batch_size: int
    crop: int
    crops: int
    workers: int
    train: tuple[str, ...]
    compiled: bool
    checkpointing: bool
    sampling_steps: int

    def copies(self, ranks: int, gpus: int) -> int:
        """Return the copies of the weights that ``ranks`` on nodes of ``gpus`` hold under FSDP2.

        Raises:
            ValueError: ``shard_over`` does not divide the ranks.
        """
        over = {"all": ranks, "node": gpus}.get(str(self.shard_over)) or int(self.shard_over)
        if ranks % over:
            raise ValueError(f"trainer.strategy shards over {over} ranks, which does not divide the {ranks} of the plan")
        return ranks // over


def read_run(config: Mapping[str, Any]) -> RunConfig:
    """Return the facts of a parsed config.

    Raises:
        ValueError: A strategy, precision or data module is one that a plan does not know.
    """
    trainer, model = config["trainer"], config["model"]
    data = dict((config.get("data") or {}).get("init_args") or {})
    if "batch_size" not in data or "crop" not in data:
        name = (config.get("data") or {}).get("class_path")
        raise ValueError(f"data is {name}, whose batches are not known; a plan needs a data module with batch_size and crop")
    strategy, options = _strategy(trainer.get("strategy"))
    places = data.get("train")
    max_steps = trainer.get("max_steps", -1)
    flow = ((model.get("init_args") or {}).get("flow") or {}).get("init_args") or {}
    return RunConfig(
        strategy=strategy,
        shard_over=options.get("shard_over", "all"),
        broadcast_buffers=bool(options.get("broadcast_buffers", True)),
        bucket_views=bool(options.get("gradient_as_bucket_view", False)),
        precision=_precision(trainer.get("precision")),
        clip=trainer.get("gradient_clip_val"),
        window=int(trainer.get("accumulate_grad_batches") or 1),
        max_steps=None if max_steps is None or max_steps < 0 else int(max_steps),
        batch_size=int(data["batch_size"]),
        crop=int(data["crop"]),
        crops=int(data.get("crops", 1)),
        workers=int(data.get("num_workers", 0)),
        train=() if places is None else (places,) if isinstance(places, str) else tuple(places),
        compiled=any(_settings(model, "compile")),
        checkpointing=all(_settings(model, "checkpointing") or [False]),
        sampling_steps=int(flow.get("steps", 0)) if data.get("validation") is not None else 0,
    )


def _strategy(strategy: Any) -> tuple[str, Mapping[str, Any]]:
    """Return the name of a strategy, and its options."""
    options = (strategy.get("init_args") or {}) if isinstance(strategy, Mapping) else {}
    path = strategy.get("class_path") if isinstance(strategy, Mapping) else str(strategy)
    name = str(path).rpartition(".")[2].lower()
    if name in ("fsdp2", "fsdp2strategy"):
        return "fsdp2", options
    if name in ("auto", "none") or name.startswith("ddp"):
        return "ddp", options | (options.get("dict_kwargs") or {})
    raise ValueError(f"trainer.strategy is {path}, which a plan does not know; use auto, ddp or mimdit.distributed.FSDP2Strategy")


def _precision(precision: Any) -> str:
    name = _PRECISIONS.get(str(precision), str(precision))
    if name not in _KNOWN:
        raise ValueError(f"trainer.precision is {precision}, which a plan does not know; use one of {', '.join(_KNOWN)}")
    return name


def _settings(part: Any, name: str) -> list[bool]:
    """Return the values of an argument of a class and of all classes among its arguments."""
    if not isinstance(part, Mapping):
        return []
    arguments = part.get("init_args") or {}
    own = [bool(arguments[name])] if name in arguments else []
    return own + [value for nested in arguments.values() for value in _settings(nested, name)]
