"""What watches and accompanies a run: expert utilisation, quality, images, speed, memory and the moving average."""

from callbacks.checkpoint import CompleteCheckpoint
from callbacks.ema import EMAUpdate
from callbacks.expert_utilization import ExpertUtilization
from callbacks.image_grid import ImageGrid
from callbacks.memory import Memory
from callbacks.mfu import MFU
from callbacks.quality import Quality
from callbacks.showcase import Showcase
from callbacks.throughput import Throughput
from callbacks.write_restored import WriteRestored

__all__ = [
    "CompleteCheckpoint",
    "EMAUpdate",
    "ExpertUtilization",
    "ImageGrid",
    "MFU",
    "Memory",
    "Quality",
    "Showcase",
    "Throughput",
    "WriteRestored",
]
