"""What is logged of the identification of the validation images."""

import pytest
import torch

from callbacks import Identification
from mimdit.evaluation.identification import average_precision
from tests.callbacks.dummy import DummyRestorer, loader, samples, trainer
from tests.tiny_models import tiny_restorer


def logits_of(keys: list[str]) -> torch.Tensor:
    """Made logits of the samples of some numbers."""
    made = torch.randn(100, 7, generator=torch.Generator().manual_seed(0))
    return torch.stack([made[int(key)] for key in keys])


class Identifying(DummyRestorer):
    """Says `logits_of` its images."""

    def validation_step(self, batch: dict, batch_idx: int) -> dict:
        return super().validation_step(batch, batch_idx) | {"identified": logits_of(batch["key"])}


def test_the_score_is_that_of_all_batches(tmp_path):
    run = trainer(tmp_path, Identification())
    run.validate(Identifying(), loader(11, batch_size=3), verbose=False)
    made = samples(11)
    expected = average_precision(logits_of([sample["key"] for sample in made]), torch.stack([sample["degradation"] for sample in made]))
    logged = {name: value.item() for name, value in run.callback_metrics.items()}
    assert set(expected.of_atoms) == {"noise", "haze", "lowlight"}
    of_atoms = {f"val_identification/{atom}": value for atom, value in expected.of_atoms.items()}
    assert logged == pytest.approx({"val/identification_map": expected.mean} | of_atoms)


def test_images_that_a_sampler_repeats_count_once(tmp_path):
    once, twice = trainer(tmp_path / "a", Identification()), trainer(tmp_path / "b", Identification())
    once.validate(Identifying(), loader(6), verbose=False)
    twice.validate(Identifying(), torch.utils.data.DataLoader(samples(6) + samples(3), batch_size=2), verbose=False)
    assert once.callback_metrics == twice.callback_metrics and "val/identification_map" in once.callback_metrics


def test_a_restorer_that_does_not_identify_logs_nothing(tmp_path):
    run = trainer(tmp_path, Identification())
    run.validate(DummyRestorer(), loader(), verbose=False)
    assert not run.callback_metrics


def test_a_second_validation_forgets_the_first(tmp_path):
    run, fresh = trainer(tmp_path / "a", Identification()), trainer(tmp_path / "b", Identification())
    run.validate(Identifying(), loader(12), verbose=False)
    run.validate(Identifying(), loader(5), verbose=False)
    fresh.validate(Identifying(), loader(5), verbose=False)
    assert run.callback_metrics == fresh.callback_metrics


def test_a_restorer_that_identifies_is_scored(tmp_path):
    restorer = tiny_restorer(conditioner={"identify": True}, flow={"start": "degraded", "sigma_start": 0.5, "steps": 0})
    run = trainer(tmp_path, Identification())
    run.validate(restorer, loader(12), verbose=False)
    assert 0 < run.callback_metrics["val/identification_map"] <= 1
