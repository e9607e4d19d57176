"""Seconds of a step in closed form."""

import pytest

from mimdit.planning.assumptions import DEFAULTS, with_given
from mimdit.planning.hardware import GPUS
from mimdit.planning.step_time import Links, device_seconds, host_seconds, link_seconds, network_bytes, sent_bytes, step_seconds
from tests.planning.made_plans import GIGABIT, KERNELS

H100 = GPUS["h100"]
EXACT = with_given({"products": "1", "traffic": "1", "launch": "10", "links": "1", "latency": "0", "hidden": "1"})
REDUCE = {"kind": "all-reduce", "dtype": "float32", "size": 8e9, "ranks": 16, "stride": 1, "calls": 1}
GATHER = {"kind": "all-gather", "dtype": "float32", "size": 8e9, "ranks": 16, "stride": 1, "calls": 1}


def test_a_kernel_takes_the_longer_of_its_products_and_its_traffic():
    seconds = device_seconds(KERNELS, H100, EXACT, False)
    assert seconds["products"][0] == pytest.approx(10e12 / 989.4e12)
    assert seconds["traffic"][0] == pytest.approx((10 * 1e6 + 20 * 1e9) / 3.35e12)
    assert seconds["device"][0] == pytest.approx(10e12 / 989.4e12 + 20e9 / 3.35e12)


def test_compiled_blocks_move_and_launch_less():
    assert device_seconds(KERNELS, H100, DEFAULTS, True)["device"][0] < device_seconds(KERNELS, H100, DEFAULTS, False)["device"][0]
    assert host_seconds(KERNELS, EXACT, False) == pytest.approx((300e-6, 300e-6))
    assert host_seconds(KERNELS, EXACT, True) == pytest.approx((90e-6, 210e-6))


def test_a_ring_sends_an_all_reduce_twice():
    assert sent_bytes([REDUCE]) == pytest.approx(2 * 15 / 16 * 8e9)
    assert sent_bytes([GATHER]) == pytest.approx(15 / 16 * 8e9)


def test_nodes_exchange_a_share_of_each_gpu():
    links = Links(8, 2, 450e9, 400 * GIGABIT)
    assert network_bytes([GATHER], links) == pytest.approx(8e9 / 8 / 2)
    assert link_seconds([GATHER], links, EXACT)[0] == pytest.approx(7 / 8 * 8e9 / 450e9 + 8e9 / 8 / 2 / 50e9)
    assert network_bytes([GATHER], Links(16, 1, 450e9, 1.0)) == 0


@pytest.mark.parametrize(("hidden", "seconds"), [("1", 1.2), ("0", 1.5), ("0.5", 1.35)])
def test_communication_that_is_not_hidden_lengthens_the_step(hidden, seconds):
    assumed = with_given({"hidden": hidden})
    assert step_seconds((1.0, 1.0), (0.3, 0.3), (0.5, 0.5), (0.1, 0.1), assumed)[0] == pytest.approx(seconds)


def test_slow_data_sets_the_step():
    assert step_seconds((1.0, 2.0), (0.3, 0.3), (0.0, 0.0), (3.0, 4.0), DEFAULTS) == (3.0, 4.0)


def test_groups_inside_a_node_and_across_nodes_use_their_own_links():
    links = Links(8, 2, 450e9, 400 * GIGABIT)
    inside, across = GATHER | {"ranks": 8}, REDUCE | {"ranks": 2, "stride": 8}
    assert network_bytes([inside], links) == 0
    assert network_bytes([across], links) == pytest.approx(2 * 8e9 / 2)
    assert link_seconds([inside], links, EXACT)[0] == pytest.approx(7 / 8 * 8e9 / 450e9)
    assert link_seconds([across], links, EXACT)[0] == pytest.approx(2 * 8e9 / 2 / 50e9)
