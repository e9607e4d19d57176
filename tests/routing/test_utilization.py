"""Expert statistics against hand-made counts, brute force and other processes."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mimdit.core.batch import ATOMS
from mimdit.routing.utilization import UtilizationCounts, class_name, group_labels, normalized_mutual_information, utilization
from tests.routing.made_routing import chosen_routing, images_of, made_routing, routing_of


def hot(*names: str) -> torch.Tensor:
    """Multi-hot rows, one per string such as ``"haze+rain"``; ``""`` is clean."""
    return torch.tensor([[float(atom in name.split("+")) for atom in ATOMS] for name in names])


def counted(*updates) -> UtilizationCounts:
    counts = UtilizationCounts()
    for routing, degradation in updates:
        counts.update(routing, degradation)
    return counts


def random_degradation(images: int, seed: int = 0) -> torch.Tensor:
    return (torch.rand(images, len(ATOMS), generator=torch.Generator().manual_seed(seed)) < 0.15).float()


def test_statistics_of_ten_images_counted_by_hand():
    # 6, 3, 1 and 0 images of 10 go to the four experts.
    statistics = utilization(counted((chosen_routing([0] * 6 + [1] * 3 + [2], 4), hot(*["haze"] * 6, *["rain"] * 4))))
    torch.testing.assert_close(statistics.load_MGE[0, 0], torch.tensor([0.6, 0.3, 0.1, 0.0], dtype=torch.float64))
    assert statistics.max_violation_MG.item() == pytest.approx(6 / 2.5 - 1)
    entropy = -(0.6 * math.log(0.6) + 0.3 * math.log(0.3) + 0.1 * math.log(0.1))
    assert statistics.load_entropy_MG.item() == pytest.approx(entropy / math.log(4))
    assert statistics.unused_MGE[0, 0].tolist() == [False, False, False, True]
    high, low = math.e**1 / (math.e + 3 / math.e), math.e**-1 / (math.e + 3 / math.e)
    probability = [share * high + (1 - share) * low for share in (0.6, 0.3, 0.1, 0.0)]
    assert statistics.probability_MGE[0, 0].tolist() == pytest.approx(probability)
    assert statistics.image_entropy_MG.item() == pytest.approx(-(high * math.log(high) + 3 * low * math.log(low)) / math.log(4), abs=1e-6)
    assert statistics.classes == ("haze", "rain") and statistics.class_images_D.tolist() == [6, 4]
    assert statistics.confusion_DMGE[1, 0, 0].tolist() == [0, 0.75, 0.25, 0]


def test_uniform_use_is_balanced_and_nothing_is_dead():
    statistics = utilization(counted((chosen_routing([0, 1, 2, 3] * 3, 4), hot(*["noise"] * 12))))
    assert statistics.max_violation_MG.item() == pytest.approx(0, abs=1e-12)
    assert statistics.load_entropy_MG.item() == pytest.approx(1)
    assert not statistics.unused_MGE.any()


def test_the_threshold_of_unused_is_a_tenth_of_the_uniform_load():
    # Of 80 images and 2 experts: 4 images are exactly 0.1 / 2, 3 are below.
    for images, unused in ((4, False), (3, True)):
        statistics = utilization(counted((chosen_routing([1] * images + [0] * (80 - images), 2), hot(*["noise"] * 80))))
        assert statistics.unused_MGE[0, 0].tolist() == [False, unused]


def test_top_k_hits_match_a_loop_over_images():
    routing, degradation = made_routing(13, top_k=3, experts=5), random_degradation(13)
    statistics = utilization(counted((routing, degradation)))
    expected = np.zeros(statistics.joint_DMGE.shape)
    names = ["+".join(a for a, on in zip(ATOMS, row) if on) or "clean" for row in degradation.tolist()]
    for m in range(2):
        for g in range(2):
            for image, name in enumerate(names):
                for expert in routing.intra.indices[m, g, image].tolist():
                    expected[statistics.classes.index(name), m, g, expert] += 1
    np.testing.assert_array_equal(statistics.joint_DMGE.numpy(), expected)
    torch.testing.assert_close(statistics.load_MGE.sum(-1), torch.ones(2, 2, dtype=torch.float64))


def test_a_single_expert_is_neither_dead_nor_uncertain():
    statistics = utilization(counted((chosen_routing([0, 0], 1), hot("haze", "rain"))))
    values = [statistics.max_violation_MG, statistics.load_entropy_MG, statistics.image_entropy_MG, statistics.information_MG]
    assert [value.item() for value in values] == [0, 1, 0, 0]


def test_outer_gates_are_averaged_per_class():
    inter = torch.tensor([[[2.0, 0.0], [0.0, 0.0], [-1.0, 1.0]]])
    routing = routing_of(inter, torch.zeros(1, 2, 3, 2), top_k=1, groups=("swin", "se"))
    statistics = utilization(counted((routing, hot("haze", "haze", ""))))
    weights = inter[0].softmax(-1).double()
    torch.testing.assert_close(statistics.gate_MG[0], weights.mean(0))
    order = [statistics.classes.index("haze"), statistics.classes.index("clean")]
    torch.testing.assert_close(statistics.gate_DMG[order, 0], torch.stack([weights[:2].mean(0), weights[2]]))
    entropy = -(weights * weights.log()).sum(-1).mean() / math.log(2)
    assert statistics.gate_entropy_M.item() == pytest.approx(entropy.item(), abs=1e-6)


def test_micro_batches_sum_up_to_the_whole_and_reset_forgets():
    routing, degradation = made_routing(12), random_degradation(12)
    parts = counted(*((images_of(routing, slice(i, i + 4)), degradation[i : i + 4]) for i in (0, 4, 8)))
    torch.testing.assert_close(parts.table_DW, counted((routing, degradation)).table_DW, rtol=0, atol=1e-6)
    parts.reset()
    with pytest.raises(ValueError, match="empty"):
        utilization(parts)


def test_degradation_of_another_batch_is_refused():
    with pytest.raises(ValueError, match="same micro-batch"):
        UtilizationCounts().update(made_routing(3), random_degradation(4))


def brute_force_information(classes: list[int], experts: list[int]) -> float:
    """Mutual information over min(H(D), H(E)) from the definition, sample by sample."""
    n = len(classes)
    pairs = {(d, e): sum(x == d and y == e for x, y in zip(classes, experts)) / n for d in set(classes) for e in set(experts)}
    p_d, p_e = ({v: values.count(v) / n for v in set(values)} for values in (classes, experts))
    information = sum(p * math.log(p / (p_d[d] * p_e[e])) for (d, e), p in pairs.items() if p)
    return information / min(-sum(p * math.log(p) for p in side.values()) for side in (p_d, p_e))


def test_mutual_information_matches_its_definition():
    generator = np.random.default_rng(1)
    classes = generator.integers(0, 3, 60).tolist()
    experts = [(d + int(generator.random() < 0.3)) % 4 for d in classes]
    statistics = utilization(counted((chosen_routing(experts, 4), hot(*(["haze", "rain", "haze+rain"][d] for d in classes)))))
    assert statistics.information_MG.item() == pytest.approx(brute_force_information(classes, experts))


def test_an_expert_for_each_degradation_is_full_information():
    statistics = utilization(counted((chosen_routing([0, 1, 2] * 5, 3), hot(*["haze", "rain", "noise"] * 5))))
    assert statistics.information_MG.item() == pytest.approx(1)


def test_one_class_has_no_information():
    statistics = utilization(counted((chosen_routing([0, 1, 2], 3), hot(*["haze"] * 3))))
    assert statistics.information_MG.item() == 0 and statistics.chance_MG.item() == 0


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_chance_is_what_shuffled_degradations_give(top_k):
    routing = made_routing(400, top_k=top_k, blocks=1, groups=("swin",))
    classes = torch.arange(400) % 5
    hits = torch.zeros(400, 4).scatter(-1, routing.intra.indices[0, 0], 1.0)
    shuffled, generator = [], torch.Generator().manual_seed(0)
    for _ in range(300):
        joint = torch.zeros(5, 4).index_add_(0, classes[torch.randperm(400, generator=generator)], hits)
        information, chance = normalized_mutual_information(joint.double(), torch.full((5,), 80.0, dtype=torch.float64))
        shuffled.append(information.item())
    spread = np.std(shuffled) / math.sqrt(len(shuffled))
    assert abs(np.mean(shuffled) - chance.item()) < 4 * spread + 0.05 * chance.item()


def test_names_of_classes_and_groups():
    assert [class_name(code) for code in (0, 1, 2 + 8)] == ["clean", "blur", "noise+haze"]
    assert group_labels(("swin", "se", "swin")) == ("swin0", "se", "swin2")


def _reduce_half(rank: int, store: str, results: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    routing, degradation = made_routing(10), random_degradation(10)
    part = slice(0, 4) if rank == 0 else slice(4, 10)
    counts = counted((images_of(routing, part), degradation[part]))
    counts.all_reduce()
    torch.save(counts.table_DW, f"{results}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_reduce_to_the_counts_of_the_concatenated_batch(tmp_path):
    mp.spawn(_reduce_half, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    expected = counted((made_routing(10), random_degradation(10))).table_DW
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected, rtol=0, atol=1e-6)
