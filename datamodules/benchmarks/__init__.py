"""Public benchmarks as they are released: one class a layout, each with a root, all evaluated at once."""

from datamodules.benchmarks.benchmark import Benchmark, Contents, Entry
from datamodules.benchmarks.cdd11 import CDD11
from datamodules.benchmarks.foundir import FoundIR
from datamodules.benchmarks.pair_folders import PairFolders
from datamodules.benchmarks.polyu import PolyU
from datamodules.benchmarks.shards import Shards
from datamodules.benchmarks.sidd import SIDDBlocks
from datamodules.benchmarks.suites import InstructIR, MoCEIR, PromptIR
from datamodules.benchmarks.unpaired import Unpaired

__all__ = [
    "Benchmark",
    "CDD11",
    "Contents",
    "Entry",
    "FoundIR",
    "InstructIR",
    "MoCEIR",
    "PairFolders",
    "PolyU",
    "PromptIR",
    "SIDDBlocks",
    "Shards",
    "Unpaired",
]
