"""``mimdit checkpoint refit``."""

import cv2
import numpy as np
import pytest
import torch

from mimdit import Restorer, cli
from mimdit.restorer.identification import identify
from mimdit.weights import EMBEDDED_RESTORER


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """A folder of 30 flat images, of which 15 are noisy."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for group, spread in (("05Noise", 20), ("00Clean", 0)):
        for side in ("LQ", "GT"):
            (tmp_path / "pairs" / group / side).mkdir(parents=True)
        for number in range(15):
            clean = np.full((32, 32, 3), generator.integers(60, 190, 3), np.uint8)
            noisy = (clean + spread * generator.standard_normal(clean.shape)).clip(0, 255).astype(np.uint8)
            cv2.imwrite(f"pairs/{group}/LQ/{number:02}.png", noisy)
            cv2.imwrite(f"pairs/{group}/GT/{number:02}.png", clean)
    return "pairs"


def test_the_new_head_knows_what_it_was_shown_and_the_rest_stays(pairs, capsys):
    few = ["--epochs", "20", "--members", "2", "--width", "16", "--cleaned_share", "0"]
    cli.main(["checkpoint", "refit", "embedded", pairs, "refit", *few])
    said = capsys.readouterr().out
    assert "27 images fitted, 3 held out: mean average precision" in said and "wrote refit" in said
    before, after = Restorer.from_pretrained(), Restorer.from_pretrained("refit")
    assert after.conditioner.config["identify_statistics"] and after.conditioner.config["identify_width"] == 32
    assert after.measured_gates.as_json() == before.measured_gates.as_json() and after.caution == before.caution
    image = torch.full((1, 3, 32, 32), 0.4)
    noisy = (image + 0.08 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert torch.equal(after.restore(noisy, caution=0.0), before.restore(noisy, caution=0.0))
    assert identify(after, noisy)[0, 1] > 0.8 > 0.2 > identify(after, image)[0, 1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--images", "4"], "gave 4 images; give at least 10"),
        (["--cleaned_share", "2"], "cleaned_share=2.0 is outside 0..1"),
        (["--epochs", "0"], "epochs=0 must be at least 1"),
    ],
)
def test_bad_options_are_named(pairs, capsys, options, named):
    with pytest.raises(SystemExit):
        cli.main(["checkpoint", "refit", str(EMBEDDED_RESTORER), pairs, "refit", *options])
    assert named in " ".join(capsys.readouterr().err.split())
