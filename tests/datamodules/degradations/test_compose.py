"""Every group, from the image to the degraded image."""

import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch

from datamodules.degradations import CLEAN, GROUPS, degrade
from datamodules.degradations.compose import IN_ORDER
from datamodules.synthetic.photographs import photograph_crop
from mimdit.core.batch import ATOMS


@pytest.fixture(scope="module")
def photograph():
    return photograph_crop("motorcycle_left", 256).astype(np.float32) / 255.0


def psnr(image, reference):
    return -10.0 * np.log10(np.mean((image - reference) ** 2) + 1e-12)


def test_every_atom_has_its_place_in_the_order():
    assert set(IN_ORDER) == set(ATOMS)


@pytest.mark.parametrize("group", GROUPS)
def test_result_is_float32_in_range_and_leaves_the_input_alone(group, photograph):
    image = np.ascontiguousarray(photograph[:97, :130])
    before = image.copy()
    degraded = degrade(image, group, severity=0.8, seed=3)
    assert degraded.shape == image.shape and degraded.dtype == np.float32
    assert degraded.min() >= 0.0 and degraded.max() <= 1.0
    np.testing.assert_array_equal(image, before)
    assert not np.shares_memory(image, degraded)


@pytest.mark.parametrize("group", GROUPS)
def test_severity_zero_is_nearly_the_image(group, photograph):
    # JPEG at quality 90 with halved chroma takes this photograph, full of colored edges, to 33.4 dB; the mean of the others is 37.
    limit = 33.0 if "jpeg" in GROUPS[group] else 40.0
    assert psnr(degrade(photograph, group, severity=0.0, seed=1), photograph) > limit


@pytest.mark.parametrize("group", [group for group in GROUPS if group != CLEAN])
def test_psnr_falls_with_the_severity(group, photograph):
    # The mean over seeds, as single drops may happen to hide nothing.
    means = [
        np.mean([psnr(degrade(photograph, group, severity=s, seed=seed), photograph) for seed in (1, 2)]) for s in (0.1, 0.4, 0.7, 1.0)
    ]
    assert all(worse < better - 0.2 for better, worse in zip(means, means[1:], strict=False)), means


def test_clean_needs_nothing(photograph):
    np.testing.assert_array_equal(degrade(photograph, CLEAN, severity=1.0, seed=0), photograph)


def test_another_process_makes_the_same_bytes():
    program = (
        "import zlib, numpy; from datamodules.degradations import GROUPS, degrade\n"
        "image = numpy.random.default_rng(0).random((40, 56, 3), dtype=numpy.float32)\n"
        "print([zlib.crc32(degrade(image, g, severity=0.6, seed=4).tobytes()) for g in GROUPS])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    image = np.random.default_rng(0).random((40, 56, 3), dtype=np.float32)
    assert output.strip() == str([zlib.crc32(degrade(image, group, severity=0.6, seed=4).tobytes()) for group in GROUPS])


@pytest.mark.parametrize("group", ["01Blur", "05Noise", "08Haze", "10Rain", "11Raindrop", "14Lowlight"])
def test_seeds_differ(group, photograph):
    assert not np.array_equal(degrade(photograph, group, severity=0.5, seed=1), degrade(photograph, group, severity=0.5, seed=2))


def test_tensor_and_array_give_the_same(photograph):
    tensor = torch.from_numpy(photograph).permute(2, 0, 1)
    degraded = degrade(tensor, "13Rain_Haze", severity=0.5, seed=7)
    assert degraded.shape == tensor.shape and degraded.dtype == torch.float32 and degraded.is_contiguous()
    np.testing.assert_array_equal(degraded.permute(1, 2, 0).numpy(), degrade(photograph, "13Rain_Haze", severity=0.5, seed=7))


def test_atoms_share_the_severity_and_come_in_the_physical_order(photograph):
    # JPEG is last: compressing the blurred image by hand at the shared severity gives the same.
    blurred = degrade(photograph, "01Blur", severity=0.5, seed=9)
    by_hand = degrade(blurred, "06JPEG", severity=0.5, seed=9)
    np.testing.assert_array_equal(degrade(photograph, "03Blur_JPEG", severity=0.5 * 2**0.5, seed=9), by_hand)


@pytest.mark.parametrize("severity", [-0.1, 1.01, float("nan")])
def test_severity_outside_its_range_is_refused(severity, photograph):
    with pytest.raises(ValueError, match="severity must lie in 0..1"):
        degrade(photograph, "01Blur", severity=severity, seed=0)


@pytest.mark.parametrize(
    "image", [torch.zeros(8, 8, 3), torch.zeros(3, 8, 8, dtype=torch.uint8), np.zeros((3, 8, 8), np.float32), np.zeros((8, 8, 3))]
)
def test_other_shapes_and_types_are_refused(image):
    with pytest.raises(ValueError, match="to degrade must be float"):
        degrade(image, "01Blur", severity=0.5, seed=0)
