"""The datamodule under a Trainer: what a checkpoint holds, who counts, what is refused."""

import csv
import itertools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from datamodules.restoration import RestorationDataModule
from datamodules.shards import ShardError
from tests.datamodules.made_shards import encode, keys_of, made_image, make_folder
from tests.processes import run_in_processes


@pytest.fixture
def folder(tmp_path):
    return str(make_folder(tmp_path / "data").folder)


class Recorder(L.LightningModule):
    """Learns the mean brightness and notes every batch."""

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[list[str], float]] = []
        self.validated: list[str] = []

    def training_step(self, batch, batch_idx):
        loss = (batch["gt"].mean() - self.mean).square().mean()
        self.seen.append((batch["key"], loss.item()))
        return loss

    def validation_step(self, batch, batch_idx):
        self.validated += batch["key"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def datamodule(folder, **options) -> RestorationDataModule:
    return RestorationDataModule(folder, **{"batch_size": 4, "crop": 16, "num_workers": 0, "eval_num_workers": 0, **options})


def fit(data, *, checkpoint=None, callbacks=(), **options) -> Recorder:
    model = Recorder()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    checkpoints = {"enable_checkpointing": bool(callbacks)}
    L.Trainer(**{"max_steps": 12, **quiet, **checkpoints, **options}, callbacks=list(callbacks)).fit(model, data, ckpt_path=checkpoint)
    return model


@pytest.mark.parametrize("workers, accumulate", [(0, 1), (2, 1), (2, 3)])
def test_resuming_from_a_checkpoint_gives_the_losses_of_the_uninterrupted_run(folder, tmp_path, workers, accumulate):
    saving = ModelCheckpoint(tmp_path / "saved", filename="{step}", every_n_train_steps=5, save_top_k=-1)
    whole = fit(datamodule(folder, num_workers=workers), callbacks=[saving], accumulate_grad_batches=accumulate)
    saved = tmp_path / "saved" / "step=5.ckpt"
    rest = fit(datamodule(folder, num_workers=workers), checkpoint=saved, accumulate_grad_batches=accumulate)
    assert len(whole.seen) == 12 * accumulate
    assert rest.seen == whole.seen[5 * accumulate :]


def test_a_window_that_was_not_stepped_is_not_counted(folder):
    data = datamodule(folder)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=7)
    batches = iter(data.train_dataloader())
    data.mark_consumed(next(batches))
    assert data.state_dict()["ranks"][0]["positions"] == [[0, 0]]
    data.trainer.global_step = 8
    data.mark_consumed(next(batches))
    assert data.state_dict()["ranks"][0]["positions"] == [[0, 8]]


def test_short_epochs_of_the_trainer_do_not_disturb_the_order(folder):
    plain = fit(datamodule(folder, num_workers=2))
    epochs = fit(datamodule(folder, num_workers=2, validation=folder), limit_train_batches=5)
    assert epochs.seen == plain.seen
    assert sorted(set(epochs.validated)) == keys_of()


def test_overfitting_repeats_the_same_pixels(folder):
    model = fit(datamodule(folder, overfit=4))
    assert len({tuple(sorted(keys)) for keys, _ in model.seen}) == 1
    batches = iter(datamodule(folder, overfit=1, batch_size=1).train_dataloader())
    assert torch.equal(next(batches)["lq"], next(batches)["lq"])


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"overfit": 1}, ["00Clean/0000"]),
        ({"overfit": 2, "weights": {"00Clean": 1, "01Blur": 2, "09Lowlight_Haze": 3}}, ["00Clean/0000", "01Blur/0000"]),
        ({"overfit": 2, "weights": {"00Clean": 0, "01Blur": 2, "09Lowlight_Haze": 3}}, ["01Blur/0000", "09Lowlight_Haze/0000"]),
        ({"overfit": 1, "groups": ["09Lowlight_Haze", "01Blur"]}, ["01Blur/0000"]),
        ({"overfit": 2, "temperature": 3.0}, ["00Clean/0000", "01Blur/0000"]),
        ({"overfit": 1, "composed": {"02Blur_Noise": "01Blur"}, "groups": ["02Blur_Noise"]}, ["01Blur/0000"]),
        ({"overfit": 1, "composed": {"02Blur_Noise": "01Blur"}}, ["00Clean/0000"]),
    ],
)
def test_fewer_samples_than_groups_are_the_first_of_the_training_groups(folder, options, keys):
    batches = iter(datamodule(folder, batch_size=1, **options).train_dataloader())
    assert sorted({key for _ in range(8) for key in next(batches)["key"]}) == keys


def test_overfitting_tells_a_group_that_the_shards_do_not_hold(folder):
    for options in ({"groups": ["05Noise"]}, {"weights": {"01Blur": 1, "05Noise": 1}}):
        with pytest.raises(ValueError, match="no training group '05Noise'. The shards hold 00Clean, 01Blur, 09Lowlight_Haze"):
            datamodule(folder, overfit=1, **options).train_dataloader()


class Vanish(L.Callback):
    """Removes a shard in the first epoch, and puts it back in the third."""

    def __init__(self, folder: str, shard: str = "01Blur-000001.tar") -> None:
        self.path = Path(folder) / shard

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch_idx == 1:
            self.path.rename(self.path.with_suffix(".away"))
        if batch_idx == 14:
            self.path.with_suffix(".away").rename(self.path)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_vanishes_in_mid_epoch_is_passed_over_and_counted(folder, tmp_path, workers):
    logger = CSVLogger(tmp_path, name=None, version="log")
    model = fit(datamodule(folder, num_workers=workers), callbacks=[Vanish(folder)], logger=logger, max_steps=40, log_every_n_steps=2)
    lost = {f"01Blur/{number:04d}" for number in range(5, 9)}
    assert len(model.seen) == 40 and not lost & {key for keys, _ in model.seen[8:13] for key in keys}
    assert lost <= {key for keys, _ in model.seen[20:] for key in keys}  # it is back
    logger.save()
    rows = list(csv.DictReader((tmp_path / "log" / "metrics.csv").open()))
    assert [row["faults/lost_shards"] for row in rows if row["faults/lost_shards"]] == ["1"]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_lost_shard_stops_if_so_wanted_and_is_named(folder, workers):
    with pytest.raises((ValueError, RuntimeError), match=r"max_lost_shards=0 allows[^$]*01Blur-000001.tar cannot be opened"):
        fit(datamodule(folder, num_workers=workers, max_lost_shards=0), callbacks=[Vanish(folder)], max_steps=40)


@pytest.mark.parametrize("limits", [{"max_steps": -1, "max_epochs": 3}, {"max_steps": -1}])
def test_epochs_without_steps_are_refused(folder, limits):
    with pytest.raises(ValueError, match=r"max_epochs is \d+ and trainer\.max_steps is not set"):
        fit(datamodule(folder), **limits)


def test_overfit_batches_is_refused(folder):
    with pytest.raises(ValueError, match="Set data.overfit"):
        fit(datamodule(folder), overfit_batches=2)


def test_missing_folders_are_named(folder, tmp_path):
    with pytest.raises(ShardError, match="nowhere does not exist"):
        datamodule(folder, validation=str(tmp_path / "nowhere")).setup("fit")
    with pytest.raises(ValueError, match=r"data\.train is not set"):
        fit(datamodule(None))
    with pytest.raises(ValueError, match=r"data\.test is not set"):
        datamodule(folder).test_dataloader()


@pytest.mark.parametrize("name, value", [("batch_size", 0), ("crop", -3), ("num_workers", -1), ("prefetch", 0)])
def test_numbers_out_of_range_are_named(folder, name, value):
    with pytest.raises(ValueError, match=rf"data\.{name} is {value}; it must be at least"):
        datamodule(folder, **{name: value})


@pytest.mark.parametrize(
    "other, message",
    [({"seed": 1}, "data.seed: 0 there, 1 here"), ({"overfit": 9}, "shards of group 01Blur differ from the checkpoint")],
)
def test_a_state_of_another_stream_is_refused(folder, other, message):
    data = datamodule(folder)
    data.train_dataloader()
    resumed = datamodule(folder, **other)
    resumed.load_state_dict(data.state_dict())
    with pytest.raises(ValueError, match=message):
        resumed.train_dataloader()


def test_another_stage_goes_on_at_the_next_epoch_and_says_so(folder, caplog):
    def consume(data, count: int) -> list[str]:
        data.trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=0)
        draws = []
        for batch in itertools.islice(data.train_dataloader(), count):
            data.trainer.global_step += 1
            data.mark_consumed(batch)
            draws += batch["draw"]
        return draws

    first = datamodule(folder, batch_size=1, groups=["00Clean", "01Blur"])
    begun = consume(first, 20)  # 18 samples an epoch
    second = datamodule(folder, batch_size=1, weights={"01Blur": 1, "09Lowlight_Haze": 2})
    second.load_state_dict(first.state_dict())
    rest = consume(second, 22)
    assert "from now on 01Blur 31.8%, 09Lowlight_Haze 68.2%. 16 samples of epoch 1 are left out" in caplog.text
    assert sorted({draw.split("/")[0] for draw in begun if "01Blur" in draw}) == ["0", "1"]
    # Two passes over 01Blur were begun by epochs 0 and 1; its next epoch is the third pass.
    assert {draw.split("/")[0] for draw in rest if "01Blur" in draw} == {"2"}
    assert sum("01Blur" in draw for draw in rest) == 7 and sum("/09Lowlight_Haze" in draw for draw in rest) == 15


def test_composed_groups_are_part_of_an_epoch(folder):
    data = datamodule(folder, batch_size=1, composed={"18Lowlight_Blur_Noise": "01Blur"})
    groups = [batch["group"][0] for batch in itertools.islice(data.train_dataloader(), 40)]
    assert Counter(groups) == {"00Clean": 3, "01Blur": 15, "09Lowlight_Haze": 7, "18Lowlight_Blur_Noise": 15}


@pytest.mark.parametrize(
    "composed, message",
    [
        ({"18Lowlight_Blur_Noise": "02Blur_Noise"}, "from 02Blur_Noise, which the shards do not hold"),
        ({"01Blur": "00Clean"}, "the shards hold pairs of it"),
        ({"18Fog": "01Blur"}, "cannot make '18Fog'"),
    ],
)
def test_composed_groups_that_cannot_be_are_named(folder, composed, message):
    with pytest.raises(ValueError, match=message):
        datamodule(folder, composed=composed).train_dataloader()


def test_crops_must_divide_the_batch(folder):
    with pytest.raises(ValueError, match="data.crops is 3, which does not divide data.batch_size of 4"):
        datamodule(folder, crops=3)


def test_images_of_different_sizes_are_no_evaluation_batch(tmp_path):
    def edit(sample):
        larger = encode(made_image("larger", 30, 30))
        return {**sample, "lq.png": larger, "gt.png": larger} if sample["__key__"] == "01Blur/0001" else sample

    folder = str(make_folder(tmp_path / "data", edit=edit).folder)
    with pytest.raises(ValueError, match=r"01Blur/0001 is 30x30.*Set eval_batch_size to 1"):
        list(datamodule(None, test=folder, eval_batch_size=4).test_dataloader())
    assert len(list(datamodule(None, test=folder).test_dataloader())) == 25


def _two_ranks(rank: int, train: str, test: str) -> dict:
    """Stop after 5 batches, resume from rank 0's state as Lightning does, and return what both ways deliver next."""

    def on_rank() -> RestorationDataModule:
        # A spawned process would spawn its workers too, and each of them import torch for seconds.
        data = datamodule(train, test=test, num_workers=2, batch_size=2, multiprocessing_context="fork")
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, global_step=0)
        return data

    data = on_rank()
    keys = []
    for number, batch in enumerate(data.train_dataloader()):
        if number == 5:
            states = [data.state_dict()]
            torch.distributed.broadcast_object_list(states, src=0)
        if number == 9:
            break
        data.trainer.global_step += 1
        data.mark_consumed(batch)
        keys.append(batch["key"])
    resumed = on_rank()
    resumed.load_state_dict(states[0])
    batches = iter(resumed.train_dataloader())
    tested = [batch["key"][0] for batch in resumed.test_dataloader()]
    return {"state": states[0], "whole": keys, "resumed": [next(batches)["key"] for _ in range(4)], "tested": tested}


class TwoRanks:
    """`_two_ranks` with its folders, importable in a spawned process."""

    def __init__(self, train: str, test: str):
        self.train, self.test = train, test

    def __call__(self, rank: int) -> dict:
        return _two_ranks(rank, self.train, self.test)


def test_two_processes_each_resume_their_own_part(folder, tmp_path):
    # Bad samples move the ranks' positions apart; without them all ranks would have one state.
    spoiled = {"00Clean/0001", "01Blur/0002", "01Blur/0003", "01Blur/0011", "09Lowlight_Haze/0004"}
    train = make_folder(tmp_path / "bad", edit=lambda sample: {**sample, "lq.png": b""} if sample["__key__"] in spoiled else sample)
    ranks = run_in_processes(TwoRanks(str(train.folder), folder), tmp_path)
    assert ranks[0]["state"] == ranks[1]["state"]
    assert ranks[0]["state"]["ranks"][0] != ranks[0]["state"]["ranks"][1]
    for rank in ranks:
        assert rank["resumed"] == rank["whole"][5:]
    assert ranks[0]["whole"] != ranks[1]["whole"]
    assert sorted(ranks[0]["tested"] + ranks[1]["tested"]) == keys_of()
