"""Public test sets as they are released: one class per layout, each with a root, all evaluated at once."""

from datamodules.test_sets.base import Benchmark, Contents, Entry, TestSet
from datamodules.test_sets.layouts import CDD11, FoundIR, PairFolders, PolyU, Shards, SIDDBlocks, Unpaired
from datamodules.test_sets.realir import RealIRBench
from datamodules.test_sets.suites import InstructIR, MoCEIR, PromptIR

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
    "RealIRBench",
    "SIDDBlocks",
    "Shards",
    "TestSet",
    "Unpaired",
]
