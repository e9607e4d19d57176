"""The ablation table says what each run is by its config."""

import pytest

from mimdit.evaluation.report import read_run
from mimdit.evaluation.report.ablation import ablation_table
from tests.evaluation.report.made_results import row, write_run

VARIANTS = {
    "ours_top1": ({"top_k": 1}, None),
    "full": ({}, None),
    "no_balance": ({}, {"balance": 0.0, "z": 0.0}),
    "uniform": ({"inter": "uniform"}, None),
    "sparse_dense": ({"inter": "sparse", "intra": "dense"}, None),
    "sparse_sparse": ({"inter": "sparse"}, None),
    "dense_dense": ({"intra": "dense"}, None),
    "swin": ({"groups": ["swin"] * 4}, None),
    "spatial": ({"groups": ["spatial"] * 4}, None),
    "no_intra": ({"intra": "none"}, None),
}


def test_the_papers_order_and_the_difference_to_the_full_model(tmp_path):
    for place, (name, (conditioner, balance)) in enumerate(VARIANTS.items()):
        write_run(tmp_path / name, [row("08Haze", 1, 20.0 + place)], conditioner, balance)
    lines = ablation_table([read_run(str(tmp_path / name)) for name in VARIANTS]).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")][1:]
    paper = ["no_intra", "spatial", "swin", "dense_dense", "sparse_sparse", "sparse_dense", "full"]
    assert [cells[0] for cells in rows] == [*paper, "ours_top1", "no_balance", "uniform"]
    by_name = {cells[0]: cells[1:] for cells in rows}
    assert by_name["full"][:7] == ["dense", "sparse", "spatial channel swin se", "4", "2", "on", "21.00"]
    assert by_name["swin"][2] == "4 swin" and by_name["no_intra"][3:5] == ["-", "-"] and by_name["dense_dense"][4] == "all"
    assert by_name["no_balance"][5:7] == ["off", "22.00 (+1.00)"] and by_name["ours_top1"][6] == "20.00 (-1.00)"


def test_a_run_without_a_config_is_named(tmp_path):
    run = read_run(str(write_run(tmp_path / "bare", [row("08Haze", 1, 20.0)])))
    with pytest.raises(ValueError, match="bare and the folders in it hold no config.yaml"):
        ablation_table([run])


def test_a_config_with_values_that_follow_others_is_read(tmp_path):
    run = read_run(
        str(write_run(tmp_path / "run", [row("08Haze", 1, 20.0)], {"num_experts": "${trainer.devices}", "top_k": "${.num_experts}"}))
    )
    config = tmp_path / "run" / "tensorboard" / "config.yaml"
    config.write_text(config.read_text() + "trainer: {devices: 8, accelerator: '${oc.env:MIMDIT_IS_NOT_SET}'}\n")
    assert "| run | dense | sparse | spatial channel swin se | 8 | 8 | on |" in ablation_table([run])
