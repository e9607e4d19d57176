"""Public benchmarks as they are released: one class a layout, each with a root, all evaluated at once."""

from datamodules.test_sets.base import Benchmark, Contents, Entry
from datamodules.test_sets.cdd11 import CDD11
from datamodules.test_sets.foundir import FoundIR
from datamodules.test_sets.pair_folders import PairFolders
from datamodules.test_sets.polyu import PolyU
from datamodules.test_sets.shards import Shards
from datamodules.test_sets.sidd import SIDDBlocks
from datamodules.test_sets.suites import InstructIR, MoCEIR, PromptIR
from datamodules.test_sets.unpaired import Unpaired

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
