"""LightningDataModules and their sources: shards, generated scenes, photographs, degradations, test sets."""

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
    """Import a public class on first use: processes that write shards need neither torch nor Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
