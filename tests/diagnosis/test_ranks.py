"""Checks between two processes."""

from functools import partial
from pathlib import Path

import torch

from mimdit.diagnosis import Level, ranks
from mimdit.diagnosis.ranks import Place, check_agreement, check_shared_folder, check_sums
from tests.processes import run_in_processes


def checks(rank: int, folder: str) -> dict[str, tuple[int, str]]:
    place = Place(rank, rank, 2, "127.0.0.1", 0)
    ranks._VISIBLE_WITHIN = 0.2
    own = Path(folder) / f"own{rank}"
    own.mkdir()
    found = {
        "sums": check_sums(torch.device("cpu"), 60.0, repeats=2),
        "equal": check_agreement("versions", {"torch": "2"}, place.name, "install"),
        "different": check_agreement("versions", {"torch": "2", "code": f"{rank}"}, place.name, "install"),
        "shared": check_shared_folder(Path(folder), place),
        "not shared": check_shared_folder(own, place),
        "one cannot write": check_shared_folder(Path(folder) if rank else Path("/proc/self"), place),
    }
    return {name: (int(finding.level), finding.found) for name, finding in found.items()}


def test_sums_agreement_and_the_shared_folder(tmp_path):
    (tmp_path / "shared").mkdir()
    first, second = run_in_processes(partial(checks, folder=str(tmp_path / "shared")), tmp_path)
    for found in (first, second):
        levels = {name: Level(level) for name, (level, _) in found.items()}
        assert [levels[name] for name in ("sums", "equal", "shared")] == [Level.OK] * 3
        assert [levels[name] for name in ("different", "not shared")] == [Level.FAILED] * 2
        assert found["different"][1].startswith("code is 0 on rank 0 (") and "torch" not in found["different"][1]
        assert "GB/s" in found["sums"][1]
    assert "does not see" in first["not shared"][1] and "what rank 1 wrote" in first["not shared"][1]
    assert first["one cannot write"][0] == Level.FAILED and "cannot write" in first["one cannot write"][1]
    assert not [path for path in (tmp_path / "shared").rglob(".mimdit-doctor*")]
