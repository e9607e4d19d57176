"""Heat maps of mean gates: brighter cells where weights are larger, one panel per expert group that has sub-experts."""

import torch

from mimdit.plots.expert_maps import gates_by_degradation


def draw(first: float) -> torch.Tensor:
    inter = torch.tensor([[first, 1 - first], [0.5, 0.5]])
    picture = gates_by_degradation(
        "t", ["01Blur", "05Noise"], ["spatial", "se"], inter, [torch.tensor([[0.9, 0.1]] * 2), torch.zeros(2, 0)]
    )
    return torch.from_numpy(picture).int()


def test_a_weight_changes_its_cell_and_its_rows_other():
    low, high = draw(0.1), draw(0.9)
    assert low.shape == high.shape and low.shape[2] == 3
    changed = (low - high).abs().sum(dim=2).nonzero()
    # Only the first row of the first panel differs: cells are 36 pixels high, and three of them 173 wide beside a margin of 228.
    rows, columns = changed[:, 0], changed[:, 1]
    assert len(changed) and rows.max() - rows.min() < 38 and columns.min() >= 227 and columns.max() <= 402


def test_a_group_without_sub_experts_has_no_panel():
    inter = torch.tensor([[0.5, 0.5]])
    both = gates_by_degradation("t", ["01Blur"], ["spatial", "se"], inter, [torch.ones(1, 3) / 3] * 2)
    one = gates_by_degradation("t", ["01Blur"], ["spatial", "se"], inter, [torch.ones(1, 3) / 3, torch.zeros(1, 0)])
    assert both.shape[1] > one.shape[1]
