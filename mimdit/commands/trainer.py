"""``mimdit fit|validate|test|predict``: Lightning's command line, set up so that the command line and the configs mean what they say."""

import json
import logging
import os
import re
import warnings
from pathlib import Path
from typing import Any, NoReturn, TextIO

import lightning as L
import torch.distributed as dist
from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_warn

import callbacks  # the short names of its classes, too
import datamodules
import mimdit
from mimdit.core import stop_signals
from mimdit.distributed.checkpoint_files import read_hyper_parameters
from mimdit.distributed.checkpoint_io import WholeCheckpointIO
from mimdit.distributed.preemption import Preempted, leave_together
from mimdit.training.devices import slow_precision

VERBS = ("fit", "validate", "test", "predict")

_NOT_A_FILE = ("best", "last", "hpc", "registry")
"""Values of ``ckpt_path`` that Lightning resolves itself."""


_CLUTTER = re.compile(
    r"\s*(Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|- Expected a <class 'NoneType'>"
    r"|Given value type: <class '(dict|jsonargparse.*)'>|Given value: (\{|Namespace).*)"
)
"""Lines of jsonargparse's account of an error that bury the key at fault under everything that may be None."""


class Parser(LightningArgumentParser):
    """Tells what is wrong with an option in a few lines."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Leave with code 2 and the lines of ``message`` that lead to the key at fault."""
        super().error("\n".join(line for line in message.splitlines() if not _CLUTTER.fullmatch(line)), ex)

    def print_usage(self, file: TextIO | None = None) -> None:
        """Nothing: it is seventy lines, and the line that follows says how to get the help."""


class TrainerCLI(LightningCLI):
    """LightningCLI for any LightningModule and LightningDataModule, with four differences.

    - No optimiser is built outside the model: `fully_shard` replaces the parameters after the command line has built its objects, and
      an optimiser made before would train nothing, silently. The models take ``optimizer`` and ``scheduler`` arguments instead.
    - ``--ckpt_path FILE`` on the command line never overrules what the user wrote. For validate, test and predict the checkpoint's
      hyperparameters come first, then configs and options; for fit they are left alone. (Lightning lets them win over both.)
    - ``${…}`` in a YAML file may name keys of other files and options: it is resolved after all are read (omegaconf).
    - A job that Slurm started again goes on from the newest complete checkpoint of its own, whatever ``--ckpt_path`` it first began with.
    """

    def __init__(self, args: list[str] | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=Parser,
            parser_kwargs={"parser_mode": "omegaconf+"},
            save_config_kwargs={"overwrite": True},  # a requeued job starts again in the same folder
            auto_configure_optimizers=False,
            seed_everything_default=42,
            args=args,
            **kwargs,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str] | dict[str, Any]) -> None:
        """Parse ``args``, over the hyperparameters of the checkpoint that they name, if any."""
        if isinstance(args, (dict, Namespace)):
            self.config = parser.parse_object(args)
        else:
            self.config = parser.parse_args(checkpoint_hparams_first(args))

    def instantiate_classes(self) -> None:
        """Build trainer, model and data; let checkpoints remember how, for `load_from_checkpoint` and `checkpoint_hparams_first`.

        A model that did this in its ``__init__`` would keep copies of its parts wherever it is built without a command line.
        """
        super().instantiate_classes()
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # the config named no other
            self.trainer.strategy.checkpoint_io = WholeCheckpointIO()
        if (warning := slow_precision(self.trainer)) is not None:
            rank_zero_warn(warning)
        if not any(isinstance(callback, callbacks.Preemption) for callback in self.trainer.callbacks):
            stop_signals.release()
        self._dump_config()
        built = self.config_dump["model"]
        hparams = {"_class_path": built["class_path"], "_instantiator": "lightning.pytorch.cli.instantiate_module", **built["init_args"]}
        self.model.save_hyperparameters(hparams, logger=False)

    def before_fit(self) -> None:
        """Let a restarted job find its own checkpoint."""
        savers = [callback for callback in self.trainer.checkpoint_callbacks if isinstance(callback, callbacks.CompleteCheckpoint)]
        restarted = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
        if restarted and any(saver.newest(self.trainer) is not None for saver in savers):
            self.config_init["fit"]["ckpt_path"] = "last"

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would put the checkpoint's hyperparameters over the user's here; see `checkpoint_hparams_first`."""


def checkpoint_hparams_first(args: list[str]) -> list[str]:
    """Put ``--model`` as the checkpoint of ``--ckpt_path FILE`` remembers it before the user's own options, so that these win.

    Returns ``args`` unchanged for ``fit`` and for a checkpoint without hyperparameters.

    Raises:
        FileNotFoundError: ``--ckpt_path`` names nothing that exists.
        ValueError: It names something that is not a complete checkpoint, or holds more than tensors and plain values.
    """
    path = _option(args, "--ckpt_path")
    if path is None or path in ("null", *_NOT_A_FILE) or ":" in path:
        return args
    if not Path(path).exists():
        raise FileNotFoundError(f"--ckpt_path {path}: there is no such checkpoint; give a .ckpt file or folder, or 'last' or 'best'")
    if args[0] == "fit":
        return args
    hparams = read_hyper_parameters(path)
    class_path = hparams.pop("_class_path", None)
    if class_path is None:
        return args
    hparams.pop("_instantiator", None)
    return [args[0], "--model", json.dumps({"class_path": class_path, "init_args": hparams}), *args[1:]]


def _option(args: list[str], name: str) -> str | None:
    """The last value of option ``name`` in ``args``, written ``name value`` or ``name=value``."""
    value = None
    for index, arg in enumerate(args):
        if arg.startswith(f"{name}="):
            value = arg.removeprefix(f"{name}=")
        elif arg == name and index + 1 < len(args):
            value = args[index + 1]
    return value


def run(args: list[str]) -> TrainerCLI:
    """Do one of `VERBS`: ``args`` are the verb and its options. Returns the command line object with its trainer, model and data.

    A run that `callbacks.Preemption` ended does not return: the process ends with its code.
    """
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning 2.6 calls what jsonargparse 5 will remove
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 on torch 2.14, at each start
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    import_plugins()
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(logger).addFilter(_is_no_advertisement)
    joined_before = dist.is_initialized()
    try:
        cli = TrainerCLI(args)
    except Preempted as ended:
        leave_together(ended.code)
    # Lightning leaves NCCL's group at the end, but not gloo's: with its threads still there a process was seen to abort after its work.
    if dist.is_initialized() and not joined_before:
        dist.destroy_process_group()
    return cli


def import_plugins() -> None:
    """Load what a config may name by its short name: jsonargparse knows only classes whose module is imported, as above."""
    for package in (mimdit, datamodules):
        for name in package.__all__:
            getattr(package, name)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    """Lightning prints tips for its companion services litlogger and litmodels at each start."""
    return "litlogger" not in record.getMessage() and "litmodels" not in record.getMessage()
