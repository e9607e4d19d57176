"""``configs/ablation/prototype.yaml`` trains on tiny made pairs, and logs both losses and the prototypes' similarities."""

import pytest

from tests.configs.short_run import scalars_of, train_shortly


@pytest.mark.long
def test_it_trains_and_logs_losses_and_similarities(tmp_path, monkeypatch):
    counts = {"class_path": "callbacks.ExpertUtilization", "init_args": {"every_n_steps": 3}}
    tags = scalars_of(train_shortly("prototype", tmp_path, monkeypatch, {"callbacks": [counts]}))
    assert {"train/loss/contrast", "train/loss/guide"} <= set(tags)
    assert sum(tag.startswith("experts_gates/prototype_similarity/") for tag in tags) >= 4
