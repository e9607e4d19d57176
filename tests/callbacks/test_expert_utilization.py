"""Expert utilization as TensorBoard reads it back."""

import logging

import pytest
import torch
from tensorboard.plugins.custom_scalar import layout_pb2

from callbacks import ExpertUtilization
from mimdit.routing.routing import Routing
from mimdit.routing.utilization import UtilizationCounts, utilization
from tests.callbacks.dummy import DummyRestorer, events, loader, samples, trainer
from tests.routing.made_routing import chosen_routing, images_of
from tests.tiny_models import tiny_conditioner


def expected_window(module: DummyRestorer, first: int, last: int):
    """Statistics of samples ``first:last`` in one batch."""
    counts = UtilizationCounts()
    counts.update(images_of(module.routing, slice(first, last)), torch.stack([s["degradation"] for s in samples()[first:last]]))
    return utilization(counts)


def test_each_window_holds_the_counts_of_its_own_steps(tmp_path):
    module = DummyRestorer()
    trainer(tmp_path, ExpertUtilization(every_n_steps=3), max_steps=6).fit(module, loader())
    log = events(tmp_path)
    for position, (step, first, last) in enumerate([(3, 0, 6), (6, 6, 12)]):
        statistics = expected_window(module, first, last)
        entry = log.Scalars("experts_load/block1/se/e2")[position]
        assert (entry.step, entry.value) == (step, pytest.approx(statistics.load_MGE[1, 1, 2].item()))
        for tag, value in [
            ("experts_probability/block0/spatial/e3", statistics.probability_MGE[0, 0, 3]),
            ("experts_gates/outer/block0/se", statistics.gate_MG[0, 1]),
            ("experts/max_violation_worst", statistics.max_violation_MG.max()),
            ("experts/nmi_mean", statistics.information_MG.mean()),
            ("experts/nmi_chance", statistics.chance_MG.mean()),
            ("experts/load_entropy_worst", statistics.load_entropy_MG.min()),
        ]:
            assert log.Scalars(tag)[position].value == pytest.approx(value.item(), rel=1e-5), tag


def test_micro_batches_of_an_accumulation_belong_to_one_step(tmp_path):
    module = DummyRestorer()
    trainer(tmp_path, ExpertUtilization(every_n_steps=1), max_steps=2, accumulate_grad_batches=3).fit(module, loader())
    entries = events(tmp_path).Scalars("experts_load/block0/spatial/e0")
    expected = [expected_window(module, first, first + 6).load_MGE[0, 0, 0].item() for first in (0, 6)]
    assert [entry.step for entry in entries] == [1, 2]
    assert [entry.value for entry in entries] == pytest.approx(expected)


def test_validation_does_not_touch_the_counts(tmp_path):
    module, callback = DummyRestorer(), ExpertUtilization(every_n_steps=3)
    trainer(tmp_path, callback, max_steps=6, val_check_interval=1).fit(module, loader(), loader())
    values = [entry.value for entry in events(tmp_path).Scalars("experts_load/block0/se/e1")]
    assert values == pytest.approx([expected_window(module, first, first + 6).load_MGE[0, 1, 1].item() for first in (0, 6)])


def test_figures_and_the_layout_are_written(tmp_path):
    module = DummyRestorer()
    trainer(tmp_path, ExpertUtilization(every_n_steps=2, figure_every_n_steps=4), max_steps=6).fit(module, loader())
    log = events(tmp_path)
    assert [image.step for image in log.Images("experts_map/block0")] == [4]
    assert log.Images("experts_map/block1")[0].width > 300
    layout = layout_pb2.Layout.FromString(log.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    patterns = [pattern for category in layout.category for chart in category.chart for pattern in chart.multiline.tag]
    assert any(pattern == "^experts_load/block1/se/.*$" for pattern in patterns)


class Idle(DummyRestorer):
    """Expert 2 of 3 is never chosen until sample 8."""

    def routing_of(self, batch: dict) -> Routing:
        return chosen_routing([2 if int(key) >= 8 else int(key) % 2 for key in batch["key"]], 3)


def test_an_idle_expert_ages_dies_and_comes_back(tmp_path):
    trainer(tmp_path, ExpertUtilization(every_n_steps=2, dead_after=4), max_steps=6).fit(Idle(), loader())
    log = events(tmp_path)
    # Windows end at steps 2, 4, 6 = samples 4, 8, 12; in the last one the two others lie idle instead, for one window.
    assert [entry.value for entry in log.Scalars("experts/dead_age_worst")] == [2, 4, 2]
    assert [entry.value for entry in log.Scalars("experts/dead")] == [0, 1, 0]


def test_ages_survive_a_checkpoint():
    first, second = ExpertUtilization(), ExpertUtilization()
    first._age_MGE = torch.tensor([[[0, 150]]])
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second._age_MGE, first._age_MGE)


def test_modules_without_routing_and_trainers_without_tensorboard_are_left_alone(tmp_path):
    trainer(tmp_path, ExpertUtilization(every_n_steps=1), max_steps=2).fit(DummyRestorer(routed=False), loader())
    assert not [tag for tag in events(tmp_path).Tags()["scalars"] if tag.startswith("experts")]
    trainer(tmp_path, ExpertUtilization(every_n_steps=1), tensorboard=False, max_steps=2).fit(DummyRestorer(), loader())


def test_intervals_below_one_are_refused():
    with pytest.raises(ValueError, match="every_n_steps=0"):
        ExpertUtilization(every_n_steps=0)


def test_the_parameters_of_a_conditioner_are_told_at_the_start(tmp_path, caplog):
    module = DummyRestorer()
    module.conditioner = tiny_conditioner()
    with caplog.at_level(logging.INFO):
        trainer(tmp_path, ExpertUtilization(), max_steps=1).fit(module, loader())
    stored, active = module.conditioner.parameter_counts()
    assert f"the conditioner stores {stored:,} parameters, of which {active:,} are active for an image" in caplog.text
