"""Job scripts of several tasks keep consecutive ranks on one node: sharding inside a node relies on it."""

import re
from pathlib import Path

import pytest

SLURM = Path(__file__).parents[2] / "slurm"


def options_of(script: Path) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script.read_text(), re.MULTILINE))


@pytest.mark.parametrize("script", sorted(path.name for path in SLURM.glob("*.sbatch")))
def test_scripts_of_several_tasks_place_ranks_in_blocks(script):
    options = options_of(SLURM / script)
    several = int(options.get("ntasks-per-node", options.get("ntasks", 1))) > 1
    assert options.get("distribution") == ("block:block" if several else None)
