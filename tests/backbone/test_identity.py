"""The identity of a frozen backbone in a restorer's checkpoints."""

import hashlib
import re
import shutil

import pytest
import torch

from mimdit.backbone import DiTBackbone, VAECodec
from mimdit.backbone.identity import weights_sha256
from mimdit.flow import FlowMatching
from mimdit.restorer.restorer import Restorer
from mimdit.routing import RoutingBalance
from tests.tiny_checkpoints import tiny_transformer, tiny_vae, write_checkpoint
from tests.tiny_models import tiny_batch, tiny_conditioner, tiny_restorer
from tests.tiny_training import train


@pytest.fixture
def pipeline(tmp_path):
    write_checkpoint(tiny_transformer("sd3-medium"), tmp_path / "pipeline", "pipeline")
    return tmp_path / "pipeline"


def restorer_on(folder, codec_folder=None, **options):
    backbone = DiTBackbone(str(folder), codec=VAECodec(str(codec_folder or folder)), **options)
    conditioner = tiny_conditioner(latent_channels=4, token_patch=2, dim=8)
    return Restorer(backbone, conditioner, RoutingBalance(), FlowMatching(steps=2), overlap=4)


def trained_on(folder, path, **options):
    train(restorer_on(folder, **options), [tiny_batch(size=32)]).save_checkpoint(path)
    return torch.load(path, weights_only=True)


def resume(restorer, path):
    return train(restorer, [tiny_batch(size=32)] * 2, max_epochs=2, ckpt_path=path).lightning_module


def test_the_hash_is_of_names_shapes_and_values_in_bf16():
    module = torch.nn.Linear(2, 3)
    expected = hashlib.sha256()
    for name, shape in (("bias", "(3,)"), ("weight", "(3, 2)")):
        halves = module.state_dict()[name].bfloat16().view(torch.int16)
        expected.update(f"{name}\x1f{shape}\x1f".encode() + halves.numpy().tobytes())
    known = weights_sha256(module)
    assert known == expected.hexdigest() and weights_sha256(module.bfloat16()) == known
    with torch.no_grad():
        module.weight[2, 1] *= 1.01
    assert weights_sha256(module) != known
    other = torch.nn.Linear(2, 3)
    other.load_state_dict(module.state_dict())
    assert weights_sha256(torch.nn.Sequential(other)) != weights_sha256(module)  # other names


def test_a_checkpoint_names_the_weights_it_omits_and_accepts_a_copy_elsewhere(pipeline, tmp_path):
    saved = trained_on(pipeline, tmp_path / "run.ckpt")
    assert saved["frozen"].keys() == {"transformer", "codec"}
    assert all(part["source"] == str(pipeline) and part["revision"] is None for part in saved["frozen"].values())
    assert saved["frozen"]["transformer"]["sha256"] == weights_sha256(tiny_transformer("sd3-medium"))
    copy = shutil.copytree(pipeline, tmp_path / "elsewhere")
    assert resume(restorer_on(copy), tmp_path / "run.ckpt").global_step == 3


@pytest.mark.parametrize("part", ["transformer", "codec"])
def test_another_backbone_is_refused_with_both_identities(pipeline, tmp_path, part):
    saved = trained_on(pipeline, tmp_path / "run.ckpt")["frozen"][part]["sha256"]
    other = shutil.copytree(pipeline, tmp_path / "other")
    model = tiny_transformer("sd3-medium", seed=1) if part == "transformer" else tiny_vae(seed=1)
    model.save_pretrained(other / ("transformer" if part == "transformer" else "vae"))
    restorer = restorer_on(other)
    present = restorer.backbone.frozen_identity[part]["sha256"]
    known, found = re.escape(f"{pipeline} (sha256 {saved})"), re.escape(f"{other} (sha256 {present})")
    message = rf"trained on another {part}: it needs {known}, but this backbone has {found}; load it with the {part} it was trained on"
    with pytest.raises(ValueError, match=message):
        resume(restorer, tmp_path / "run.ckpt")


def test_a_trained_transformer_is_in_the_checkpoint_and_needs_no_identity(pipeline, tmp_path):
    saved = trained_on(pipeline, tmp_path / "run.ckpt", trainable=True)
    assert saved["frozen"].keys() == {"codec"}
    assert resume(restorer_on(pipeline, trainable=True), tmp_path / "run.ckpt").global_step == 3


def test_the_weights_are_hashed_once_and_not_before_a_checkpoint(monkeypatch):
    calls = []
    monkeypatch.setattr("mimdit.backbone.identity.weights_sha256", lambda module: calls.append(module) or "a" * 64)
    restorer = tiny_restorer()
    trainer = train(restorer, [tiny_batch()])
    assert calls == []
    first, second = trainer._checkpoint_connector.dump_checkpoint(), trainer._checkpoint_connector.dump_checkpoint()
    assert calls == [restorer.backbone.transformer] and first["frozen"] == second["frozen"]


def test_a_checkpoint_without_identities_loads_with_a_warning(tmp_path):
    trainer = train(tiny_restorer(), [tiny_batch()])
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    old = torch.load(tmp_path / "run.ckpt", weights_only=True)
    del old["frozen"]
    torch.save(old, tmp_path / "old.ckpt")
    with pytest.warns(UserWarning, match="does not record the backbone that it was trained on"):
        train(tiny_restorer(), [tiny_batch()], max_epochs=2, ckpt_path=tmp_path / "old.ckpt")


def test_the_embedded_backbone_is_identified_by_its_name_and_not_by_its_path():
    assert DiTBackbone().frozen_identity["transformer"]["source"] == "embedded"
