"""``mimdit fit|validate|test|predict``: Lightning's command line, with options and configs that win over checkpoints and defaults."""

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed as dist
import yaml
from jsonargparse import Namespace, set_dumper, set_parsing_settings
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_warn

import callbacks  # also for the short names of its classes
import datamodules
import mimdit
from callbacks.preemption import Preempted, leave_together
from mimdit.commands.config_parser import Parser
from mimdit.commands.remedies import remedies
from mimdit.commands.saved_config import SaveConfig, refuse_paths_of_saved, to_yaml, with_absolute_interpolations
from mimdit.core import stop_signals
from mimdit.core.connected_trainer import connected
from mimdit.distributed.checkpoint_files import WholeCheckpointIO, read_hyper_parameters
from mimdit.training.devices import slow_precision

VERBS = ("fit", "validate", "test", "predict")

_NOT_A_FILE = ("best", "last", "hpc", "registry")
"""Values of ``ckpt_path`` that Lightning resolves itself."""


class TrainerCLI(LightningCLI):
    """LightningCLI for any LightningModule and LightningDataModule, with six differences.

    - No optimizer is built outside the model: `fully_shard` replaces the parameters after the command line has built its objects, and
      an optimizer built before would silently train nothing. The models take ``optimizer`` and ``scheduler`` arguments instead.
    - ``--ckpt_path FILE`` never overrides configs and options. For validate, test and predict the checkpoint's hyperparameters come first,
      then configs and options; fit ignores them. (Lightning lets them win over both.)
    - ``${…}`` in a YAML file may name keys of other files and options: omegaconf resolves it after all are read.
    - The config is saved with ``${…}`` as written, and never over another run's; see `SaveConfig`.
    - ``config: [FILE, …]`` in a YAML file names its bases, see `bases_first`.
    - A job that Slurm restarted resumes from its own newest complete checkpoint, whatever its ``--ckpt_path`` is.
    """

    def __init__(self, args: list[str] | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=Parser,
            parser_kwargs={"parser_mode": "omegaconf+"},
            save_config_callback=SaveConfig,
            auto_configure_optimizers=False,
            seed_everything_default=42,
            args=args,
            **kwargs,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str] | dict[str, Any]) -> None:
        """Parse ``args``; they win over the hyperparameters of the checkpoint that they name, if any."""
        assert isinstance(parser, Parser)
        if isinstance(args, (dict, Namespace)):
            self.config = parser.parse_object(args)
        else:
            self.config = parser.parse_args(checkpoint_hparams_first(bases_first(args)))
        verb = self.config["subcommand"]
        if parser.unresolved is not None:
            written = yaml.safe_load(parser.unresolved)[verb]
            self.save_config_kwargs["written"] = with_absolute_interpolations(written)
        if verb == "fit" and not isinstance(args, (dict, Namespace)):
            refuse_paths_of_saved(_configs(args), self.config[verb]["trainer"].as_dict())

    def instantiate_classes(self) -> None:
        """Build trainer, model and data; store the model's arguments for `load_from_checkpoint` and `checkpoint_hparams_first`.

        A model that stored them in its ``__init__`` would keep copies of its parts even where no command line builds it.
        """
        super().instantiate_classes()
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # the config named no other
            self.trainer.strategy.checkpoint_io = WholeCheckpointIO()
        if (warning := slow_precision(self.trainer)) is not None:
            rank_zero_warn(warning)
        if not any(isinstance(callback, callbacks.Preemption) for callback in connected(self.trainer).callbacks):
            stop_signals.release()
        self._dump_config()
        built = self.config_dump["model"]
        hparams = {"_class_path": built["class_path"], "_instantiator": "lightning.pytorch.cli.instantiate_module", **built["init_args"]}
        self.model.save_hyperparameters(hparams, logger=False)

    def before_fit(self) -> None:
        """Refuse what cannot be trained or resumed; resume a restarted job from its own checkpoint.

        Raises:
            ValueError: The folder is another run's, a callback cannot work here, or the checkpoint is of another optimizer.
        """
        for callback in connected(self.trainer).callbacks:
            if isinstance(callback, SaveConfig):
                callback.refuse_other_run(self.trainer)
            if isinstance(callback, LearningRateFinder):
                raise ValueError(
                    "LearningRateFinder cannot set the rate here: it is the optimizer's argument, which the schedule multiplies at "
                    "each step. Compare a few rates in short runs: --model.optimizer.lr=RATE --trainer.max_steps=STEPS."
                )
        newest = next((path for saver in self._savers() if (path := saver.newest(self.trainer)) is not None), None)
        if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" and newest is not None:
            self.config_init["fit"]["ckpt_path"] = "last"
        self._find_best("fit")
        named = self.config_init["fit"]["ckpt_path"]
        if named == "last":
            self._refuse_other_optimizer(newest)
        elif named is not None and named not in _NOT_A_FILE and ":" not in named:
            self._refuse_other_optimizer(Path(named))

    def before_validate(self) -> None:
        """Find the checkpoint of ``--ckpt_path best``."""
        self._find_best("validate")

    def before_test(self) -> None:
        """Find the checkpoint of ``--ckpt_path best``."""
        self._find_best("test")

    def before_predict(self) -> None:
        """Find the checkpoint of ``--ckpt_path best``."""
        self._find_best("predict")

    def _savers(self) -> list[callbacks.CompleteCheckpoint]:
        return [callback for callback in connected(self.trainer).callbacks if isinstance(callback, callbacks.CompleteCheckpoint)]

    def _find_best(self, verb: str) -> None:
        """Replace ``best`` by the checkpoint of that rank in the run's folder; Lightning knows only those of its own process."""
        if self.config_init[verb]["ckpt_path"] != "best":
            return
        for saver in self._savers():
            if (best := saver.best(self.trainer)) is not None:
                self.config_init[verb]["ckpt_path"] = str(best)
                return

    def _refuse_other_optimizer(self, path: Path | None) -> None:
        """Raise ValueError if the checkpoint at ``path`` holds the state of an optimizer of another class than the config's."""
        saved = {} if path is None else read_hyper_parameters(path).get("optimizer")
        own = self.model.hparams.get("optimizer")
        if not isinstance(saved, dict) or not isinstance(own, dict) or saved.get("class_path") in (None, own["class_path"]):
            return
        raise ValueError(
            f"{path} holds the state of {saved['class_path']}, but the config's optimizer is {own['class_path']}. Resume with "
            f"--model.optimizer={saved['class_path']}, or start anew from its weights: mimdit export {path} FOLDER, then "
            "--model.init_args.pretrained=FOLDER instead of --ckpt_path."
        )

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would put the checkpoint's hyperparameters over the user's here; see `checkpoint_hparams_first`."""


def bases_first(args: list[str]) -> list[str]:
    """Insert ``--config`` options for each config's bases, listed under its key ``config`` (paths relative to it), before that config.

    A later file wins over an earlier one, so a config overrides its bases and appends to their lists (``callbacks+``).

    Raises:
        ValueError: A config names a base that does not exist, is its own base, or does not give its bases as a list.
    """
    expanded: list[str] = []
    words = iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--config":
            expanded.append(word)
            continue
        value = value if equals else next(words, "")
        expanded += [f"--config={base}" for base in _bases(Path(value), ())] + ([f"--config={value}"] if value else [word])
    return expanded


def _bases(path: Path, above: tuple[Path, ...]) -> list[Path]:
    """Return the bases of a config in the order to read them, each after its own bases."""
    if not path.is_file():
        return []  # a value in place of a file, or a mistake that the parser reports
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    named = content.get("config") if isinstance(content, dict) else None
    if isinstance(named, str):
        raise ValueError(f"{path}: config: {named} must be a list; write config: [{named}]")
    found: list[Path] = []
    for name in named or []:
        base = path.parent / name
        if not base.is_file():
            raise ValueError(f"{path} names the config {name}, but {base} does not exist")
        if base.resolve() in above:
            raise ValueError(f"{path} names the config {name}, which names {path} again")
        found += [*_bases(base, (*above, path.resolve())), base]
    return found


def checkpoint_hparams_first(args: list[str]) -> list[str]:
    """Put ``--model`` with the hyperparameters of ``--ckpt_path FILE`` before the user's own options, so that these win.

    Returns ``args`` unchanged for ``fit`` and for a checkpoint without hyperparameters.

    Raises:
        FileNotFoundError: The file of ``--ckpt_path`` does not exist.
        ValueError: It is not a complete checkpoint, or holds more than tensors and plain values.
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


def _configs(args: list[str]) -> list[Path]:
    """Return the files of ``--config`` in ``args``."""
    following = [value for name, value in zip(args, args[1:], strict=False) if name == "--config"]
    return [Path(value) for value in following] + [Path(arg.removeprefix("--config=")) for arg in args if arg.startswith("--config=")]


def _option(args: list[str], name: str) -> str | None:
    """Return the last value of option ``name`` in ``args``, written ``name value`` or ``name=value``."""
    value = None
    for index, arg in enumerate(args):
        if arg.startswith(f"{name}="):
            value = arg.removeprefix(f"{name}=")
        elif arg == name and index + 1 < len(args):
            value = args[index + 1]
    return value


def run(args: list[str]) -> TrainerCLI:
    """Run one of `VERBS`: ``args`` are the verb and its options. Return the command line object with its trainer, model and data.

    After a run that `callbacks.Preemption` ended, the process exits with its code.
    """
    _prepare()
    joined_before = dist.is_initialized()
    try:
        with remedies():
            cli = TrainerCLI(args)
    except Preempted as ended:
        assert isinstance(ended.code, int)
        leave_together(ended.code)
    # Lightning destroys NCCL's group at the end, but not gloo's, whose threads have aborted processes at exit.
    if dist.is_initialized() and not joined_before:
        dist.destroy_process_group()
    return cli


def parse(args: list[str]) -> dict[str, Any]:
    """Return the config of a verb as `run` would read it, with all defaults; nothing is built or run.

    Args:
        args: The verb and its options.
    """
    _prepare()
    with remedies():
        return _ParsedOnly(args).config[args[0]].as_dict()


class _ParsedOnly(TrainerCLI):
    """Command line that stops before it builds anything."""

    def instantiate_classes(self) -> None:
        """Do nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Do nothing."""


def _prepare() -> None:
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning 2.6 calls functions that jsonargparse 5 removes
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 on torch 2.14, at each start
    warnings.filterwarnings("ignore", message=r"\s*Unable to serialize instance")  # a default that `to_yaml` leaves out
    set_dumper("yaml", to_yaml)
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    import_plugins()
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(logger).addFilter(_is_no_advertisement)


def import_plugins() -> None:
    """Import the classes that a config may name by their short names: jsonargparse finds only imported ones."""
    for package in (mimdit, datamodules):
        for name in package.__all__:
            getattr(package, name)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    """Return false for the tips for litlogger and litmodels that Lightning prints at each start."""
    return "litlogger" not in record.getMessage() and "litmodels" not in record.getMessage()
