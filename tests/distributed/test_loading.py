"""Restorers by the names of those that come with the package."""

import numpy as np
import pytest
import torch

from datamodules.degradations.compose import degrade
from datamodules.synthetic.photographs import TEST, photograph_crop
from mimdit import Restorer
from mimdit.distributed.loading import load_restorer
from mimdit.evaluation.metrics import psnr


@pytest.mark.parametrize(("name", "steps"), [(None, 0), ("embedded", 0), ("paper", 16)])
def test_a_name_stands_for_a_folder_of_the_package(name, steps, tmp_path, monkeypatch):
    (tmp_path / "paper").mkdir()  # ./paper would be this one
    monkeypatch.chdir(tmp_path)
    restorer = load_restorer(name)
    assert restorer.flow.steps == steps and restorer.anchor == "none"
    assert (restorer.conditioner.estimate_head is None) == (name == "paper")
    with pytest.raises(ValueError, match="restorer.json is missing"):
        load_restorer("./paper")


def test_a_misspelled_name_is_told_with_the_choices():
    with pytest.raises(
        ValueError, match="papre does not exist; give a .ckpt of mimdit fit, a folder of mimdit export, or one of embedded, paper"
    ):
        load_restorer("papre")


def test_the_papers_set_up_lights_a_dark_photograph_from_pure_noise():
    restorer = Restorer.from_pretrained("paper")
    clean = photograph_crop(TEST[0], 192).astype(np.float32) / 255
    dark = np.asarray(degrade(clean, "14Lowlight", severity=0.6, seed=0))
    clean, dark = (torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() for image in (clean, dark))
    restored, unsteered = restorer.restore(dark), restorer.restore(dark, use_residuals=False)
    assert psnr(restored, clean).item() > psnr(dark, clean).item() + 2
    assert psnr(unsteered, clean).item() < psnr(restored, clean).item() - 2  # the conditioner alone tells the DiT of the photograph
