"""Which samples are shown."""

import random

from callbacks.sample_picker import SpreadOverGroups


def choose(offers: list[tuple[str, str]], limit: int) -> list[tuple[str, str]]:
    choice = SpreadOverGroups(limit)
    for group, key in offers:
        if choice.wants(group, key):
            choice.add(group, key, f"{group}/{key}")
    chosen = choice.chosen()
    assert all(item == f"{group}/{key}" for group, key, item in chosen)
    return [(group, key) for group, key, _ in chosen]


OFFERS = [(f"{g:02d}", f"k{k}") for g in range(5) for k in range(9)]


def test_the_choice_does_not_depend_on_the_order():
    shuffled = random.Random(0).sample(OFFERS, len(OFFERS))
    for limit in (1, 3, 5, 8, 40, 100):
        assert choose(OFFERS, limit) == choose(shuffled, limit)


def test_every_group_is_shown_before_any_is_shown_twice():
    for limit, per_group in ((5, {1}), (8, {1, 2}), (10, {2}), (45, {9})):
        chosen = choose(OFFERS, limit)
        counts = {sum(group == g for group, _ in chosen) for g in {group for group, _ in OFFERS}}
        assert len(set(chosen)) == limit and counts == per_group


def test_too_many_groups_are_spaced_evenly():
    offers = [(f"{g:02d}", "k") for g in range(20)]
    assert [group for group, _ in choose(offers, 4)] == ["02", "07", "12", "17"]


def test_groups_show_different_keys():
    assert len({key for _, key in choose(OFFERS, 5)}) > 1
