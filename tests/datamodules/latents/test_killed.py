"""Encoding that is killed at any moment and begun again ends as one that never was."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.datamodules.latents.made_latents import CROP, content, make_latents

_ROOT = Path(__file__).parents[3]
SIZES = {"01Blur": [40] * 15}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder beside which the images and the autoencoder lie, what a call that was not killed wrote, and the seconds it took."""
    folder = tmp_path_factory.mktemp("whole")
    make_latents(folder, "warm", sizes=SIZES, crops=1)
    began = time.monotonic()
    make_latents(folder, sizes=SIZES, crops=4)
    return folder, content(folder / "latents"), time.monotonic() - began


@pytest.mark.long
@pytest.mark.parametrize("number", range(3))
def test_begun_again_after_a_kill(whole, tmp_path, number):
    made, expected, seconds = whole
    options = [f"--vae={made / 'vae0'}", f"--crop={CROP}", "--crops=4", "--batch_size=3", "--device=cpu", "--workers=1"]
    command = [sys.executable, "-m", "mimdit", "shards", "latents", str(made / "images"), str(tmp_path / "latents"), *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(command, cwd=_ROOT, start_new_session=True, **quiet)
    # Counted by shards, not by seconds: a machine that is busy now and idle later changes nothing.
    moment = random.Random(number)
    shards = moment.randrange(1, 12)
    while running.poll() is None and len(list((tmp_path / "latents").glob("*.tar"))) < shards:
        time.sleep(0.01)
    time.sleep(moment.uniform(0, seconds / 30))
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert 0 < len(list((tmp_path / "latents").glob("*.tar"))) < 15
    subprocess.run(command, cwd=_ROOT, check=True, **quiet)
    assert content(tmp_path / "latents") == expected
