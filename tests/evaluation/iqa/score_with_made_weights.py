"""Run in a process of its own: make the weights of the metrics named as arguments, score by our code and by pyiqa's, tell both."""

import contextlib
import io
import json
import socket
import sys
import tempfile

import numpy as np
import pyiqa
import torch
from PIL import Image
from pyiqa.archs.fid_arch import get_folder_features

from mimdit.evaluation.iqa import METRICS, Scorer
from mimdit.evaluation.iqa.fid_kid import InceptionFeatures
from mimdit.evaluation.iqa.scorer import hub_offline
from tests.evaluation.iqa.made_weights import make_weights


def main(names: list[str]) -> None:
    socket.socket.connect = None  # whatever wants the network fails
    before = {name: METRICS[name].problem() for name in names}
    assert Scorer(names).missing == {name: before[name] for name in names if not METRICS[name].of_sets}, (
        "a metric without weights was not left out"
    )
    for name in names:
        make_weights(name)
    generator = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.interpolate(torch.rand(1, 3, 24, 30, generator=generator), size=(226, 250), mode="bicubic").clamp(0, 1)
    image = (truth + 0.1 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    scorer = Scorer(names)
    scored = (image * 255).round() / 255, (truth * 255).round() / 255
    if "fid" in names:
        check_features(scored)
    loaded_alone = [name for name in names if name.startswith("maniqa")]  # a score takes a minute
    ours, notes = scorer.score(image, truth, [name for name in names if name not in loaded_alone])
    theirs = {}
    for name in ours:
        with contextlib.redirect_stdout(io.StringIO()), hub_offline():
            theirs[name] = float(pyiqa.create_metric(name, device="cpu")(*scored[: 1 + METRICS[name].reference]))
    print(json.dumps({"before": before, "missing": scorer.missing, "ours": ours, "theirs": theirs, "notes": notes}))


def check_features(images: tuple[torch.Tensor, ...]) -> None:
    """Compare Inception's features with those that pyiqa reads from files."""
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(images):
            Image.fromarray((image[0] * 255).round().byte().permute(1, 2, 0).numpy()).save(f"{folder}/{number}.png")
        features = InceptionFeatures()
        theirs = get_folder_features(folder, features.model, num_workers=0, device="cpu", verbose=False)
    for ours, expected in zip(map(features, images), theirs):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    main(sys.argv[1:])
