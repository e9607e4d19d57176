"""Callbacks of a run: checkpoints, faults, expert utilization, scores, identification, images, speed, memory, averages and data shares."""

from callbacks.checkpoint import CompleteCheckpoint
from callbacks.data_equilibrium import DataEquilibrium
from callbacks.ema import EMAUpdate
from callbacks.expert_utilization import ExpertUtilization
from callbacks.identification import Identification
from callbacks.memory import Memory
from callbacks.mfu import MFU
from callbacks.non_finite import NonFiniteGuard
from callbacks.preemption import Preemption
from callbacks.rank_spread import RankSpread
from callbacks.restarts import Restarts
from callbacks.sample_images import ImageGrid, Showcase
from callbacks.scores import Quality, Scores
from callbacks.throughput import Throughput
from callbacks.token_utilization import TokenUtilization
from callbacks.watchdog import Watchdog
from callbacks.write_restored import WriteRestored

__all__ = [
    "CompleteCheckpoint",
    "DataEquilibrium",
    "EMAUpdate",
    "ExpertUtilization",
    "Identification",
    "ImageGrid",
    "MFU",
    "Memory",
    "NonFiniteGuard",
    "Preemption",
    "Quality",
    "RankSpread",
    "Restarts",
    "Scores",
    "Showcase",
    "Throughput",
    "TokenUtilization",
    "Watchdog",
    "WriteRestored",
]
