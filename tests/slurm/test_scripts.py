"""What the job scripts say of themselves."""

import re
from pathlib import Path

import pytest

SLURM = Path(__file__).parents[2] / "slurm"


def options_of(script: Path) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script.read_text(), re.MULTILINE))


@pytest.mark.parametrize("script", sorted(path.name for path in SLURM.glob("*.sbatch")))
def test_scripts_of_several_tasks_keep_consecutive_ranks_on_one_node_where_sharding_expects_them(script):
    options = options_of(SLURM / script)
    several = int(options.get("ntasks-per-node", options.get("ntasks", 1))) > 1
    assert options.get("distribution") == ("block:block" if several else None)


def test_the_sweep_has_a_task_for_every_ablation():
    configs = [*(SLURM.parent / "configs" / "ablation").glob("*.yaml")]
    assert options_of(SLURM / "sweep.sbatch")["array"] == f"0-{len(configs) - 1}"
    assert f"--array=0-{len(configs) - 1}%4 slurm/sweep.sbatch" in (SLURM / "README.md").read_text()
