"""Average precision of the identification, against its definition."""

import math

import numpy as np
import pytest
import torch

from mimdit.core.batch import ATOMS
from mimdit.evaluation.identification import average_precision


def by_definition(scores: np.ndarray, present: np.ndarray) -> float:
    """Mean, over the images that have the atom, of the precision among those ranked at least as high."""
    precisions = [present[scores >= score].mean() for score, there in zip(scores, present) if there]
    return float(np.mean(precisions))


def of_one_atom(scores: list[float], present: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The other atoms are in no image."""
    both = torch.zeros(2, len(scores), len(ATOMS))
    both[0, :, 1], both[1, :, 1] = torch.tensor(scores), torch.tensor(present)
    return both[0], both[1]


def test_a_ranking_done_by_hand():
    # Ranks 1, 3 and 4 have noise: (1/1 + 2/3 + 3/4) / 3.
    score = average_precision(*of_one_atom([0.9, 0.7, 0.6, 0.4, 0.1], [1, 0, 1, 1, 0]))
    assert score.of_atoms == {"noise": pytest.approx(29 / 36)} and score.mean == pytest.approx(29 / 36)


def test_many_atoms_and_ties_by_definition():
    rng = np.random.default_rng(0)
    scores, present = rng.integers(0, 12, (60, len(ATOMS))) / 4 - 1, rng.random((60, len(ATOMS))) < 0.3
    score = average_precision(torch.from_numpy(scores), torch.from_numpy(present))
    expected = {atom: by_definition(scores[:, place], present[:, place]) for place, atom in enumerate(ATOMS)}
    assert score.of_atoms == pytest.approx(expected, abs=1e-6)
    assert score.mean == pytest.approx(np.mean(list(expected.values())), abs=1e-6)


def test_logits_far_from_zero_rank_as_they_are():
    # The sigmoid of both is 1 in fp32.
    assert average_precision(*of_one_atom([40.0, 50.0], [0, 1])).mean == 1


def test_atoms_that_all_or_no_images_have_ask_for_no_ranking():
    scores, present = torch.rand(4, len(ATOMS), generator=torch.Generator().manual_seed(0)), torch.zeros(4, len(ATOMS))
    assert math.isnan(average_precision(scores, present).mean)
    present[:, 0] = present[0, 3] = 1
    assert list(average_precision(scores, present).of_atoms) == [ATOMS[3]]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\[3, 5\] and \[3, 5\]; give \[N, 7\]"):
        average_precision(torch.rand(3, 5), torch.ones(3, 5))
