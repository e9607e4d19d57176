"""The newest checkpoints are kept, and a restarted run goes on from the newest complete one."""

import pytest

from callbacks import CompleteCheckpoint, Throughput
from mimdit.distributed import WholeCheckpointIO
from tests.callbacks.dummy import LoggingRestorer, events, loader, trainer


def fit(folder, steps: int, *callbacks, **options):
    saver = CompleteCheckpoint(2, keep=2, dirpath=str(folder / "kept"))
    settings = {"enable_checkpointing": True, "max_steps": steps, "limit_val_batches": 0, "plugins": [WholeCheckpointIO()]} | options
    run = trainer(folder, saver, *callbacks, **settings)
    run.fit(LoggingRestorer(lr=0.1), loader(), ckpt_path="last")
    return run


def kept(folder) -> list[str]:
    return sorted(path.name for path in (folder / "kept").iterdir() if not path.is_symlink())


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


@pytest.mark.parametrize("every", [1, 3])
def test_no_step_is_in_the_curves_twice(tmp_path, every):
    for steps in (5, 12):  # the first is stopped after step 5, the second goes on from step 4
        fit(tmp_path, steps, Throughput(1), log_every_n_steps=every)
    log = events(tmp_path)
    assert [event.step for event in log.Scalars("loss")] == list(range(every - 1, 12, every))
    # counted from 1: with every step of Lightning's logged, the one of the checkpoint is given up
    assert [event.step for event in log.Scalars("speed/seconds_per_step")] == [step for step in range(1, 13) if (step, every) != (4, 1)]


def test_none_to_keep_is_refused():
    with pytest.raises(ValueError, match="keep=0"):
        CompleteCheckpoint(keep=0)
