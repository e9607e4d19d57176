"""LightningDataModules and what they stream: shards, made scenes, photographs, degradations."""

from datamodules.restoration import RestorationDataModule

__all__ = ["RestorationDataModule"]
