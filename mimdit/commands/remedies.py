"""Remedies: mistakes of the user that libraries raise in terms of their own classes, reported in terms of configs and options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.exceptions import MisconfigurationException

_ENDLESS = "but the training stream is endless and has no length to take a share of"
_REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r'\(ckpt_path="best"\)` is set but',
        "--ckpt_path best: this run has no checkpoint that a score ranks. Set monitor of callbacks.CompleteCheckpoint in trainer.callbacks "
        "(such as val/psnr_output), or give last or a .ckpt file.",
    ),
    (
        r'\(ckpt_path="hpc"\)` is set but',
        "--ckpt_path hpc: Lightning's requeuing has left no checkpoint. Give last or a .ckpt file.",
    ),
    (
        r"Cannot use `(?P<name>\w+)` callback with `Trainer` that has no logger",
        "trainer.logger is false, but {name} writes only to a logger. Take it out of trainer.callbacks in the config, or log to a file: "
        "--trainer.logger=CSVLogger --trainer.logger.save_dir=FOLDER.",
    ),
    (
        r"enable_checkpointing=False` but found",
        "trainer.enable_checkpointing is false, but trainer.callbacks in the config has a callback that saves checkpoints. Take one of the "
        "two away; --trainer.fast_dev_run=10 tries 10 steps and saves nothing.",
    ),
    (
        r"`Trainer\(val_check_interval\)` must be|`val_check_interval` should be an integer",
        f"trainer.val_check_interval is a share of an epoch, {_ENDLESS}. Give the number of training batches from one validation to the "
        "next, such as 500, with check_val_every_n_epoch null.",
    ),
    (
        r"`Trainer\(limit_train_batches\)` must be",
        f"trainer.limit_train_batches is a share of an epoch, {_ENDLESS}. Give a number of batches, or only trainer.max_steps.",
    ),
    (
        r"Early stopping conditioned on metric `(?P<name>[^`]*)` which is not available\. .*following: (?P<known>.*)",
        "EarlyStopping monitors {name}, which is not logged. Set its monitor to one of: {known}.",
    ),
    (
        r"(?P<callback>\w+)\(monitor='(?P<name>[^']*)'\)`? could not find the monitored key in the returned metrics: \[(?P<known>.*?)\]",
        "{callback} monitors {name}, which is not logged. Set its monitor to one of: {known}.",
    ),
    (
        r"ReduceLROnPlateau conditioned on metric (?P<name>\S+) which is not available. Available metrics are: \[(?P<known>.*?)\]",
        "ReduceLROnPlateau monitors {name}, which is not logged. Set its monitor to one of: {known}.",
    ),
    (
        r"(?:class_path '(?:\w+\.)*(?P<name>\w+)'.*)?HINT: Try running `pip install (?:-U )?(?P<package>[^`]+)`",
        "{name} needs a package that is not installed: pip install {package}. TensorBoardLogger and CSVLogger need none.",
    ),
)
"""Patterns of messages, and their replacements. Groups of a pattern fill its text."""


@contextmanager
def remedies() -> Iterator[None]:
    """Raise a ValueError with the remedy in place of a library's error about a mistake of the user; let everything else propagate."""
    try:
        yield
    except Exception as error:
        message = remedy(error)
        if message is None:
            raise
        raise ValueError(message) from error


def remedy(error: Exception) -> str | None:
    """Return the paragraph to show for a library's error; None for one that is not known to be the user's.

    Lightning's ``MisconfigurationException`` is always the user's: without a remedy of ours its own text is shown.
    """
    text = " ".join(str(error).split())
    for pattern, paragraph in _REMEDIES:
        if found := re.search(pattern, text):
            return paragraph.format(**{name: re.sub("[`']", "", value or "It") for name, value in found.groupdict().items()})
    return text if isinstance(error, MisconfigurationException) else None
