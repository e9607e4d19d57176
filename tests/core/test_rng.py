"""Random numbers by name."""

import subprocess
import sys

import torch

from mimdit.core.rng import draw_normals, keyed_generator


def test_parts_of_a_key_do_not_run_together():
    assert keyed_generator("a", "bc").initial_seed() != keyed_generator("ab", "c").initial_seed()
    assert keyed_generator(1, 23).initial_seed() != keyed_generator(12, 3).initial_seed()


def test_a_key_draws_the_same_in_another_process():
    code = "import torch; from mimdit.core.rng import keyed_generator; print(torch.rand(3, generator=keyed_generator('a', 1)).tolist())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(torch.rand(3, generator=keyed_generator("a", 1)).tolist())


def test_normals_are_each_generators_own():
    drawn = draw_normals((2, 3), [keyed_generator(key) for key in "ab"], torch.device("cpu"))
    assert torch.equal(drawn, torch.stack([torch.randn(2, 3, generator=keyed_generator(key)) for key in "ab"]))
