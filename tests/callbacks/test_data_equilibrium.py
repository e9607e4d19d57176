"""DataEquilibrium over the real stream: shares follow the scores, survive a stop to the bit, and agree over ranks."""

from collections import Counter
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch

from callbacks import CompleteCheckpoint, DataEquilibrium, Quality
from datamodules import RestorationDataModule
from mimdit.distributed import WholeCheckpointIO
from tests.callbacks.dummy import events, loader, trainer
from tests.datamodules.made_shards import make_folder
from tests.processes import run_in_processes

GROUPS = ["01Blur", "05Noise", "09Lowlight_Haze"]


class Learner(L.LightningModule):
    """Restores a group the better the more images of it were trained on, and noise twice as fast; notes every use of a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.nn.Parameter(torch.zeros(len(GROUPS)))
        self.used: list[tuple[str, str]] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.used += zip(batch["group"], batch["draw"], strict=True)
        counts = torch.tensor([float(batch["group"].count(group)) for group in GROUPS])
        return -(self.seen * counts).sum()  # plain SGD adds the counts

    def validation_step(self, batch: dict, batch_idx: int) -> dict:
        places = [GROUPS.index(group) for group in batch["group"]]
        speed = torch.tensor([0.01, 0.02, 0.01])[places]
        amount = (1 - torch.exp(-speed * self.seen.detach()[places])).view(-1, 1, 1, 1)
        return {"restored": batch["lq"] + amount * (batch["gt"] - batch["lq"]), "estimate": None}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(
        make_folder(tmp_path_factory.mktemp("equilibrium") / "data", {"01Blur": [4], "05Noise": [3, 2], "09Lowlight_Haze": [4]}).folder
    )


def data_of(folder: str | None, **options) -> RestorationDataModule:
    settings = {"validation": folder, "batch_size": 2, "crop": 16, "num_workers": 0, "eval_num_workers": 0, "epoch_samples": 24}
    return RestorationDataModule(folder, **settings | {"max_bad_samples": 0, "multiprocessing_context": None, **options})


def fit(place: Path, folder: str, *, steps: int = 60, equilibrium: dict | None = None, data: dict | None = None, callbacks=None, **options):
    balance = DataEquilibrium(**{"floor": 0.5, "step": 1.0} | (equilibrium or {}))
    saver = CompleteCheckpoint(4, keep=-1, dirpath=str(place / "kept"))
    limits = {"max_steps": steps, "val_check_interval": 12, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    settings = limits | {"plugins": [WholeCheckpointIO()], "enable_checkpointing": True, "use_distributed_sampler": False} | options
    ckpt_path = settings.pop("ckpt_path", None)
    model, module = Learner(), data_of(folder, **(data or {}))
    trainer(place, *([Quality()] if callbacks is None else callbacks), balance, saver, **settings).fit(model, module, ckpt_path=ckpt_path)
    return model, module, balance


@pytest.mark.parametrize("rule", ["law", "feedback"])
def test_shares_follow_the_rule_and_the_stream_serves_them(folder, tmp_path, rule):
    model, data, _ = fit(tmp_path, folder, equilibrium={"rule": rule})
    shares = data.shares
    other = max if rule == "feedback" else min  # noise gains most: by the law it gets more, by feedback less
    assert shares["05Noise"] != other(shares.values()) and shares["05Noise"] in (min(shares.values()), max(shares.values()))
    assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) >= 0.5 / 3 - 1 / 24
    logged = events(tmp_path)
    assert [point.step for point in logged.Scalars("data_share/05Noise")] == [0, 36, 48, 60]
    assert logged.Scalars("data_share/05Noise")[-1].value == pytest.approx(100 * shares["05Noise"], abs=1e-3)
    assert [point.step for point in logged.Scalars("data_gain/05Noise")] == [36, 48, 60]
    # 24 samples are an epoch. What step 36 decides holds from the epoch after the one that may be prepared: the last one of the run.
    served = Counter(group for group, _ in model.used[-24:])
    decided = {group: logged.Scalars(f"data_share/{group}")[1].value for group in GROUPS}
    assert {group: 100 * served[group] / 24 for group in GROUPS} == pytest.approx(decided, abs=1e-3)


@pytest.mark.parametrize("stop", [32, 36, 40, 48])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_run_equals_one_that_was_not(folder, tmp_path, workers, stop):
    options = {"data": {"num_workers": workers}}
    whole, data, balance = fit(tmp_path / "whole", folder, **options)
    saved = tmp_path / "whole" / "kept" / f"step={stop:07d}.ckpt"
    rest, resumed, again = fit(tmp_path / "rest", folder, ckpt_path=saved, **options)
    assert rest.used == whole.used[2 * stop :]
    assert resumed.shares == data.shares and resumed.state_dict() == data.state_dict()
    assert again.state_dict() == balance.state_dict()


def two_ranks(rank: int, place: str, folder: str) -> dict:
    options = {"strategy": "ddp", "devices": 2, "data": {"num_workers": 2, "multiprocessing_context": "fork"}}
    whole, data, _ = fit(Path(place) / "whole", folder, **options)
    saved = Path(place) / "whole" / "kept" / "step=0000036.ckpt"
    rest, resumed, _ = fit(Path(place) / "rest", folder, ckpt_path=saved, **options)
    return {"shares": data.shares, "resumed": resumed.shares, "whole": whole.used[2 * 36 :], "rest": rest.used}


def test_two_ranks_agree_and_resume_to_the_bit(folder, tmp_path):
    ranks = run_in_processes(partial(two_ranks, place=str(tmp_path), folder=folder), tmp_path / "ranks")
    assert ranks[0]["shares"] == ranks[1]["shares"] == ranks[0]["resumed"] == ranks[1]["resumed"]
    assert len(set(ranks[0]["shares"].values())) > 1
    for rank in ranks:
        assert rank["rest"] == rank["whole"]
    assert ranks[0]["whole"] != ranks[1]["whole"]


def test_until_there_are_enough_windows_the_shares_stay(folder, tmp_path):
    _, data, _ = fit(tmp_path, folder, steps=48, equilibrium={"min_windows": 4})
    assert data.shares == pytest.approx({"01Blur": 7 / 24, "05Noise": 10 / 24, "09Lowlight_Haze": 7 / 24}, abs=0.05)
    assert "data_gain/05Noise" not in events(tmp_path).Tags()["scalars"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit_val_batches": 0}, "needs validation scores"),
        ({"data": {"validation": None}}, "needs validation scores"),
        ({"callbacks": []}, "add callbacks.Quality"),
        ({"data": {"groups": ["05Noise"]}}, "only 05Noise"),
        ({"data": {"weights": {"01Blur": 20, "05Noise": 1, "09Lowlight_Haze": 1}}}, "Widen the bounds, or change data.weights"),
        ({"limit_val_batches": 1, "steps": 12}, "found no psnr_output of the training groups"),
    ],
)
def test_what_cannot_be_balanced_is_told(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, folder, **options)


def test_gain_of_a_clean_group_is_refused_before_the_first_step(tmp_path):
    folder = make_folder(tmp_path / "data", {"00Clean": [4], "05Noise": [4]}).folder
    model = Learner()
    data = data_of(str(folder))
    callbacks = [Quality(), DataEquilibrium("psnr_gain")]
    with pytest.raises(ValueError, match=r"metric=psnr_gain with the training groups 00Clean: .* no gain\. Use metric=psnr_output"):
        trainer(tmp_path, *callbacks, max_steps=1, num_sanity_val_steps=0).fit(model, data)
    assert not model.used


def test_gain_of_images_that_need_nothing_is_told_whatever_their_group_is_called(tmp_path):
    def edit(sample: dict) -> dict:
        return sample | {"lq.png": sample["gt.png"]} if sample["json"]["group"] == "01Blur" else sample

    folder = make_folder(tmp_path / "data", {"01Blur": [4], "05Noise": [4]}, edit).folder
    with pytest.raises(ValueError, match=r"metric=psnr_gain with the training groups 01Blur: .* no gain\. Use metric=psnr_output"):
        fit(tmp_path, str(folder), steps=12, equilibrium={"metric": "psnr_gain"})


def test_a_data_module_without_shares_is_told(tmp_path):
    with pytest.raises(ValueError, match="not those of"):
        trainer(tmp_path, DataEquilibrium(), max_steps=1).fit(Learner(), loader())


@pytest.mark.parametrize(
    ("name", "value"),
    [("metric", "ssim_output"), ("rule", "best"), ("floor", 1.5), ("floor", 0.0), ("ceiling", 0.5), ("step", 0.0), ("ridge", 0.0),
     ("max_change", -1.0), ("min_windows", 0), ("min_windows", 9)],
)  # fmt: skip
def test_arguments_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        DataEquilibrium(**{name: value})
