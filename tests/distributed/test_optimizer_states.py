"""Optimizer states by name and by number, with parameter groups in another order than the model's."""

import pytest
import torch
from torch import nn

from mimdit.distributed.optimizer_states import by_name, by_number, check_names, parameter_names


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model whose second parameter is frozen, after a step; its last one comes first in the optimizer."""
    model = nn.ParameterDict({name: nn.Parameter(torch.full((size,), 1.0)) for size, name in enumerate("abc", 1)})
    model["b"].requires_grad_(False)
    optimizer = torch.optim.AdamW([{"params": [model["c"]]}, {"params": [model["a"]], "weight_decay": 0.0}])
    (model["a"].sum() + 2 * model["c"].sum()).backward()
    optimizer.step()
    return model, optimizer


def test_names_are_those_of_the_numbers_and_back():
    model, optimizer = trained()
    state, names = optimizer.state_dict(), parameter_names(optimizer, model)
    named = by_name(state, names)
    assert names == ["c", "a"] and [group["params"] for group in named["param_groups"]] == [["c"], ["a"]]
    for name, values in named["state"].items():
        assert torch.equal(values["exp_avg"], optimizer.state[model[name]]["exp_avg"]) and len(values["exp_avg"]) == len(model[name])
    again = by_number(named)
    assert again["param_groups"] == state["param_groups"] and again["state"].keys() == state["state"].keys()
    assert by_number(again) is again


def test_the_state_of_other_parameters_is_refused():
    model, optimizer = trained()
    named = by_name(optimizer.state_dict(), ["c", "a"])
    check_names(named, ["c", "a"])
    check_names(optimizer.state_dict(), ["c", "a"])
    for others in (["c", "x"], ["a", "c"]):
        with pytest.raises(ValueError, match="other parameters"):
            check_names(named, others)
