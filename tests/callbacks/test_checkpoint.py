"""The newest checkpoints are kept, and a restarted run goes on from the newest complete one."""

import pytest

from callbacks import CompleteCheckpoint
from mimdit.distributed import WholeCheckpointIO
from tests.callbacks.dummy import DummyRestorer, loader, trainer


def fit(folder, steps: int):
    saver = CompleteCheckpoint(2, keep=2, dirpath=str(folder / "kept"))
    run = trainer(folder, saver, enable_checkpointing=True, max_steps=steps, limit_val_batches=0, plugins=[WholeCheckpointIO()])
    run.fit(DummyRestorer(lr=0.1), loader(), ckpt_path="last")
    return run


def kept(folder) -> list[str]:
    return sorted(path.name for path in (folder / "kept").iterdir())


def test_the_newest_are_kept_over_restarts(tmp_path):
    fit(tmp_path, 5)
    assert kept(tmp_path) == ["step=0000002.ckpt", "step=0000004.ckpt"]
    for _ in range(2):  # the second finds that there is nothing left to do
        run = fit(tmp_path, 10)
        assert run.global_step == 10 and kept(tmp_path) == ["step=0000008.ckpt", "step=0000010.ckpt"]


def test_an_incomplete_one_is_passed_over(tmp_path):
    fit(tmp_path, 4)
    newest = tmp_path / "kept" / "step=0000004.ckpt"
    newest.write_bytes(newest.read_bytes()[:-50])
    run = fit(tmp_path, 3)
    assert run.ckpt_path == str(tmp_path / "kept" / "step=0000002.ckpt") and run.global_step == 3


def test_none_to_keep_is_refused():
    with pytest.raises(ValueError, match="keep=0"):
        CompleteCheckpoint(keep=0)
