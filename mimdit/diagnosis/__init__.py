"""Checks of a node, and between nodes, before a run; each reports a finding and its remedy."""

from mimdit.diagnosis.finding import Finding, Level, merged, render

__all__ = ["Finding", "Level", "merged", "render"]
