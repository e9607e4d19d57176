"""A training run on the simulated GPU with a cluster's callbacks but for MFU: what its steps make the host wait for.

MFU counts FLOPs once, before the first step, on a copy that shapes do not allow.
"""

import json
import tempfile
import traceback
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

import callbacks
from mimdit.planning import simulated_gpu
from mimdit.planning.model_shapes import place
from tests.distributed.made_runs import make_restorer, of_rank

STEPS = 5


class SimulatedAccelerator(Accelerator):
    """Lightning's side of the device."""

    def setup_device(self, device: torch.device) -> None:
        """Do nothing."""

    def get_device_stats(self, device) -> dict:
        return {}

    def teardown(self) -> None:
        """Do nothing."""

    @staticmethod
    def parse_devices(devices):
        return devices

    @staticmethod
    def get_parallel_devices(devices):
        return [torch.device(simulated_gpu.NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return simulated_gpu.NAME


class SimulatedStrategy(SingleDeviceStrategy):
    """Places the model as `mimdit plan` does: PyTorch's own way moves no shapes."""

    def model_to_device(self) -> None:
        place(self.model, simulated_gpu.NAME)

    def teardown(self) -> None:
        """Leave the model there."""


class Waits(TorchDispatchMode):
    """Places in the code where the host waits for the device: it reads a value, or copies without saying that it need not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list[str]] = [[]]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            if args[0].device.type == simulated_gpu.NAME:
                self.steps[-1].append(f"read at {where()}")
            return {torch.bool: False}.get(args[0].dtype, 1.0 if args[0].is_floating_point() else 1)
        result = func(*args, **kwargs)
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            free = kwargs.get("non_blocking") or (func is torch.ops.aten.copy_.default and len(args) > 2 and args[2])
            if source.device.type != result.device.type and not free:
                self.steps[-1].append(f"copy at {where()}")
        return result


def where() -> str:
    frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename and frame.filename != __file__]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-4:]))


class Unsaved(callbacks.CompleteCheckpoint):
    """Saves nothing at the end: there are no values."""

    def on_train_end(self, trainer, pl_module) -> None:
        """Do nothing."""


class Mark(L.Callback):
    """Ends the list of a step where Lightning has done with the batch, in its `on_train_batch_start` of the next."""

    def __init__(self, waits: Waits) -> None:
        self.waits = waits

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.waits.steps.append([])


def run(fused: bool) -> list[list[str]]:
    """Return the places of each step between the first, which makes the optimizer's states, and the last, which ends the run."""
    waits, folder = Waits(), tempfile.mkdtemp()
    watching = [
        callbacks.EMAUpdate(), callbacks.NonFiniteGuard(), callbacks.Watchdog(), Unsaved(1000, dirpath=folder),
        callbacks.Preemption(), LearningRateMonitor(), callbacks.Throughput(), callbacks.Memory(), callbacks.RankSpread(),
        callbacks.Restarts(), callbacks.ExpertUtilization(), Mark(waits),
    ]  # fmt: skip
    with simulated_gpu.ShapesOnly(allow_non_fake_inputs=True), waits:
        trainer = L.Trainer(
            accelerator=SimulatedAccelerator(), strategy=SimulatedStrategy(torch.device(simulated_gpu.NAME, 0)), devices=1,
            precision="bf16-mixed", gradient_clip_val=1.0, log_every_n_steps=50, callbacks=watching, max_steps=STEPS,
            logger=TensorBoardLogger(folder), enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        module = make_restorer(partial(torch.optim.AdamW, fused=fused))
        module.log = lambda *args, **options: None  # Lightning copies what is logged in a way that shapes do not have
        trainer.fit(module, DataLoader(of_rank(0, 1, 1, STEPS), batch_size=None))
    return waits.steps[2:-1]


if __name__ == "__main__":
    simulated_gpu.install((9, 0))
    print(json.dumps({"fused": run(fused=True), "plain": run(fused=False)}))
