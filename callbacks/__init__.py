"""What watches and accompanies a run: expert utilisation, quality, images, speed, memory and the moving average."""

from callbacks.checkpoint import CompleteCheckpoint
from callbacks.ema import EMAUpdate
from callbacks.expert_utilization import ExpertUtilization
from callbacks.image_grid import ImageGrid
from callbacks.memory import Memory
from callbacks.mfu import MFU
from callbacks.quality import Quality
from callbacks.scores import Scores
from callbacks.showcase import Showcase
from callbacks.throughput import Throughput

__all__ = [
    "CompleteCheckpoint",
    "EMAUpdate",
    "ExpertUtilization",
    "ImageGrid",
    "MFU",
    "Memory",
    "Quality",
    "Scores",
    "Showcase",
    "Throughput",
]
