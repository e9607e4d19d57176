"""Utilization of the experts inside the transformer as TensorBoard reads it back."""

import pytest
import torch

from callbacks import TokenUtilization
from mimdit.routing.token_utilization import TokenCounts, token_utilization
from tests.callbacks.dummy import DummyRestorer, events, loader, trainer
from tests.routing.test_token_routing import made


class Dummy(DummyRestorer):
    """Its tokens are routed as the number of the micro-batch says."""

    def training_step(self, batch: dict, batch_idx: int) -> dict:
        return super().training_step(batch, batch_idx) | {"token_routing": made(images=2, seed=batch_idx)}


def window(*seeds: int):
    counts = TokenCounts()
    for seed in seeds:
        counts.update(made(images=2, seed=seed))
    return token_utilization(counts)


def test_each_window_holds_the_tokens_of_its_own_steps(tmp_path):
    trainer(tmp_path, TokenUtilization(every_n_steps=2), max_steps=4).fit(Dummy(), loader(), loader())
    log = events(tmp_path)
    for position, (step, seeds) in enumerate([(2, (0, 1)), (4, (2, 3))]):
        statistics = window(*seeds)
        for tag, value in [
            ("tokens/max_violation_worst", statistics.max_violation_L.max()),
            ("tokens/sigma_information_mean", statistics.information_L.mean()),
            ("tokens_blocks/load_entropy/block3", statistics.load_entropy_L[1]),
            ("tokens_blocks/max_violation_by_sigma/block1/sigma0.00-0.25", statistics.max_violation_SL[0, 0]),
            ("tokens_load/block1/e4", statistics.load_LE[0, 4]),
            ("tokens_load_by_sigma/block3/sigma0.75-1.00/e2", statistics.load_SLE[3, 1, 2]),
        ]:
            entry = log.Scalars(tag)[position]
            assert (entry.step, entry.value) == (step, pytest.approx(value.item(), rel=1e-5)), tag
    assert not any("sigma0.25" in tag for tag in log.Tags()["scalars"])  # no token has such a noise level


def test_curves_of_every_expert_can_be_left_out(tmp_path):
    trainer(tmp_path, TokenUtilization(every_n_steps=1, per_expert=False), max_steps=1).fit(Dummy(), loader())
    tags = events(tmp_path).Tags()["scalars"]
    assert "tokens/unused" in tags and not any(tag.startswith("tokens_load") for tag in tags)


def test_without_experts_inside_nothing_is_logged(tmp_path):
    trainer(tmp_path, TokenUtilization(every_n_steps=1), max_steps=2).fit(DummyRestorer(), loader())
    assert not any(tag.startswith("tokens") for tag in events(tmp_path).Tags()["scalars"])


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="every_n_steps=0 of TokenUtilization must be at least 1"):
        TokenUtilization(0)


def test_the_counts_are_kept_on_the_device_until_the_window_closes():
    callback = TokenUtilization()
    callback._window.update(made())
    assert callback._window.tokens_S.dtype == torch.float64 and float(callback._window.tokens_S.sum()) == 24
