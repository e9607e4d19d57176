"""LightningDataModules and what they stream: shards, made scenes, photographs, degradations, benchmarks."""

from importlib import import_module
from typing import Any

_HOMES = {
    "BenchmarkDataModule": "datamodules.test_sets.data_module",
    "TestSetDataModule": "datamodules.test_sets.data_module",
    "FoundIRDataModule": "datamodules.foundir",
    "RestorationDataModule": "datamodules.restoration",
}

__all__ = ["BenchmarkDataModule", "FoundIRDataModule", "RestorationDataModule", "TestSetDataModule"]


def __getattr__(name: str) -> Any:
    """Import a public class when it is first asked for: the processes that write shards need neither torch nor Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
