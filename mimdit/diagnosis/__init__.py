"""What can be wrong with a node, and between nodes, before a run begins: each check says what it found and how to mend it."""

from mimdit.diagnosis.finding import Finding, Level, merged, render

__all__ = ["Finding", "Level", "merged", "render"]
