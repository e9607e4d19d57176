"""A tiny experiment for the command line, and ways to run it or to read its mistakes."""

from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.cli import OptimizerCallable

from mimdit import cli
from mimdit.commands import trainer as trainer_verbs


class Head(torch.nn.Module):
    """A part nested in the model, as the backbone is in the restorer."""

    def __init__(self, width: int = 1, bias: bool = True) -> None:
        super().__init__()
        if width > 8:
            raise ValueError(f"width {width} is above 8,\n   take a smaller one")
        self.linear = torch.nn.Linear(2, width, bias=bias)


class TinyModel(L.LightningModule):
    """Learns nothing in one step."""

    def __init__(self, head: Head, ema: float = 0.999, rows: int = 0, optimizer: OptimizerCallable = torch.optim.SGD) -> None:
        super().__init__()
        self.head, self.ema, self.rows, self.make_optimizer = head, ema, rows, optimizer

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.head.linear(batch).square().mean()

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("ema", self.ema)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.parameters())


class Rows(torch.utils.data.Dataset):
    """Four rows of ones."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.ones(2)


class TinyData(L.LightningDataModule):
    """Rows of ones."""

    def __init__(self, batch_size: int = 2) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(Rows(), batch_size=self.batch_size)

    test_dataloader = train_dataloader


QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu", "max_steps": 1}


def parse(verb: str, *options: object):
    """The verb's part of the config, with nothing built and nothing run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_verbs.TrainerCLI, "instantiate_classes", lambda self: None)
        patch.setattr(trainer_verbs.TrainerCLI, "_run_subcommand", lambda self, verb: None)
        return trainer_verbs.run([verb, *map(str, options)]).config[verb]


def written(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def told(capsys, *args: object) -> str:
    """What stderr says when ``mimdit args`` ends in a user's mistake."""
    with pytest.raises(SystemExit) as end:
        cli.main([str(arg) for arg in args])
    assert end.value.code == 2
    return capsys.readouterr().err
