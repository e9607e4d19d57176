"""A module that keeps the restorer's contract with the callbacks, and data whose every number is known."""

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from mimdit.core.batch import ATOMS
from mimdit.routing.routing import Routing
from tests.routing.made_routing import images_of, made_routing

GROUPS = {"00Clean": (), "05Noise": ("noise",), "09Lowlight_Haze": ("lowlight", "haze")}


class Average:
    """A moving average that only remembers what was asked of it."""

    def __init__(self) -> None:
        self.calls: list = []

    def update(self, step: int, *, skipped: torch.Tensor | None = None) -> None:
        if skipped is None or not skipped:
            self.calls.append(step)

    def swap(self) -> None:
        self.calls.append("swap")


class DummyRestorer(L.LightningModule):
    """One weight; "restores" by moving ``weight`` of the way to the truth."""

    def __init__(self, weight: float = 0.5, *, routed: bool = True, lr: float = 0.0, num_samples: int = 12) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(float(weight)))
        self.routed, self.lr, self.seed = routed, lr, 3
        self.routing = made_routing(num_samples)
        self.ema = Average()

    def routing_of(self, batch: dict) -> Routing:
        """The decisions of the batch's samples, which are numbered by their keys and lie side by side."""
        first = int(batch["key"][0])
        return images_of(self.routing, slice(first, first + len(batch["key"])))

    def training_step(self, batch: dict, batch_idx: int) -> dict:
        loss = (batch["gt"] - batch["lq"]).square().mean() * self.weight.square()
        return {"loss": loss} | ({"routing": self.routing_of(batch)} if self.routed else {})

    def validation_step(self, batch: dict, batch_idx: int) -> dict:
        return {"restored": batch["lq"] + self.weight.detach() * (batch["gt"] - batch["lq"]), "estimate": None}

    def test_step(self, batch: dict, batch_idx: int) -> dict:
        outputs = self.validation_step(batch, batch_idx)
        return outputs | {"residuals_zeroed": batch["lq"], "gates_uniform": batch["gt"], "routing": self.routing_of(batch)}

    def predict_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        return self.validation_step(batch, batch_idx)["restored"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class LoggingRestorer(DummyRestorer):
    """Logs its loss as Lightning does, from step 0 on."""

    def training_step(self, batch: dict, batch_idx: int) -> dict:
        outputs = super().training_step(batch, batch_idx)
        self.log("loss", outputs["loss"], batch_size=len(batch["key"]))
        return outputs


def samples(number: int = 12, size: int = 16) -> list[dict]:
    """Pairs of the three groups in turn, keyed by their number; those of the clean group are equal."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for index in range(number):
        name = list(GROUPS)[index % 3]
        truth = torch.rand(3, size, size, generator=generator)
        degraded = truth if name == "00Clean" else (truth + 0.2 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
        hot = torch.tensor([float(atom in GROUPS[name]) for atom in ATOMS])
        made.append({"lq": degraded, "gt": truth, "degradation": hot, "group": name, "key": str(index)})
    return made


def loader(number: int = 12, batch_size: int = 2, size: int = 16) -> DataLoader:
    return DataLoader(samples(number, size), batch_size=batch_size)


def trainer(folder, *callbacks: L.Callback, tensorboard: bool = True, **options) -> L.Trainer:
    """Return a quiet trainer that writes only to ``folder``."""
    logger = TensorBoardLogger(folder, name="", version="log", default_hp_metric=False) if tensorboard else False
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "accelerator": "cpu", "devices": 1}
    return L.Trainer(**quiet | {"logger": logger, "callbacks": list(callbacks), "default_root_dir": folder} | options)


def events(folder) -> EventAccumulator:
    """The event files that TensorBoard would read."""
    accumulator = EventAccumulator(str(folder / "log"), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    return accumulator.Reload()
