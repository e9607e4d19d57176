"""Identification of the degradations, and the confidence that follows from it."""

import math

import pytest
import torch
import torch.nn.functional as F

from mimdit.conditioner import MoEConditioner
from mimdit.conditioner.identification import TONE_ATOMS, IdentificationHead, presence_scales
from mimdit.core.batch import ATOMS
from mimdit.routing import router_features
from mimdit.training.losses import identify_loss
from tests.tiny_models import randomize, tiny_batch, tiny_conditioner

SURE = {"estimate": True, "tone_powers": [0, 0.4, 1], "identify": True, "confidence": True}
DEEP = {"num_layers": 4, "num_blocks": 2}


def latents(batch=3):
    return torch.randn(batch, 3, 16, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def living(**options):
    conditioner = tiny_conditioner(**DEEP | options)
    randomize(conditioner, 0)
    return conditioner


def answering(logits, **options):
    """A conditioner that identifies ``logits`` in every image."""
    conditioner = living(**SURE | options)
    last = conditioner.identification.network[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.as_tensor(logits))
    return conditioner


def test_it_reads_what_the_gates_read_and_the_features_after_the_last_block():
    conditioner = living(identify=True)
    said, seen = conditioner(latents()), []
    conditioner.projections[-1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    conditioner(latents())
    features = torch.cat([*said.routing.features_MBF, router_features(seen[0])], dim=1)
    first, _, last = conditioner.identification.network
    assert features.shape == (3, 3 * 16) and said.identified.shape == (3, len(ATOMS))
    torch.testing.assert_close(said.identified, last(F.silu(first(features))), rtol=1e-5, atol=1e-5)
    assert living()(latents()).identified is None


def test_it_is_fp32_under_autocast():
    head, features = IdentificationHead(6), [torch.randn(2, 3, generator=torch.Generator().manual_seed(0)) * 50 for _ in range(2)]
    expected = head(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(features), expected) and expected.dtype == torch.float32


def test_scales_are_the_probabilities_that_any_is_present():
    logits = torch.randn(4, len(ATOMS), generator=torch.Generator().manual_seed(0))
    expected = []
    for row in logits.tolist():
        absent = {atom: 1 - 1 / (1 + math.exp(-logit)) for atom, logit in zip(ATOMS, row, strict=True)}
        expected.append((1 - math.prod(absent[atom] for atom in TONE_ATOMS), 1 - math.prod(absent.values())))
    tone, detail = presence_scales(logits)
    assert tone.shape == detail.shape == (4, 1, 1, 1)
    torch.testing.assert_close(torch.stack([tone, detail], dim=1).flatten(1), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert (tone <= detail).all()


def test_scales_of_certainty_are_zero_and_one_and_no_gradient_passes():
    logits = torch.tensor([[-200.0] * 7, [200.0] * 7, [-200.0] * 6 + [200.0], [-200.0, 200.0] + [-200.0] * 5]).requires_grad_()
    tone, detail = presence_scales(logits)
    assert tone.flatten().tolist() == [0, 1, 1, 0] and detail.flatten().tolist() == [0, 1, 1, 1]  # darkness is tone, noise is not
    assert not tone.requires_grad and not detail.requires_grad


def test_where_nothing_is_seen_the_estimate_is_the_degraded_latent_and_where_all_is_it_goes_all_the_way():
    plain = living(**SURE | {"confidence": False})
    assert torch.equal(answering([-200.0] * 7)(latents()).estimate, latents())
    torch.testing.assert_close(answering([200.0] * 7)(latents()).estimate, plain(latents()).estimate)
    assert not torch.allclose(plain(latents()).estimate, latents(), atol=0.1)


def test_tone_and_detail_go_as_far_as_their_own_probability():
    logits = torch.linspace(-3, 1, 7)
    whole, said = living(**SURE | {"confidence": False}), answering(logits)(latents())
    seen = []
    whole.estimate_head.tone.register_forward_hook(lambda module, args, output: seen.append(output))
    estimate = whole(latents()).estimate
    tone, detail = (scale[:1] for scale in presence_scales(logits[None]))
    expected = latents() + detail * (estimate - seen[0] - latents()) + tone * seen[0]
    torch.testing.assert_close(said.estimate, expected, rtol=1e-4, atol=1e-4)


def test_its_loss_is_torchs_binary_cross_entropy_by_hand():
    logits, degradation = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 3, tiny_batch(5)["degradation"]
    assert 0 < degradation.sum() < degradation.numel()
    expected = F.binary_cross_entropy(torch.sigmoid(logits.double()), degradation.double())
    by_hand = -(torch.where(degradation > 0, logits, -logits).double().sigmoid().log()).mean()
    torch.testing.assert_close(identify_loss(logits, degradation).double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(expected, by_hand)
    assert identify_loss(logits, degradation.bool()) == identify_loss(logits, degradation)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_its_loss_teaches_the_blocks_and_the_estimates_loss_does_not_teach_it(checkpointing):
    conditioner = living(**SURE, checkpointing=checkpointing)
    identify_loss(conditioner(latents()).identified, tiny_batch(3)["degradation"]).backward()
    reached = {name.split(".")[0] for name, weight in conditioner.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert reached == {"embed", "blocks", "identification"}
    last = [name for name, _ in conditioner.blocks[-1].named_parameters()]
    assert all(conditioner.blocks[-1].get_parameter(name).grad is not None for name in last)
    conditioner.zero_grad(set_to_none=True)
    conditioner(latents()).estimate.sum().backward()
    assert all(weight.grad is None for weight in conditioner.identification.parameters())
    assert all(weight.grad is not None for weight in conditioner.estimate_head.parameters())


def test_saved_and_read_it_identifies_the_same_and_older_folders_do_not_identify(tmp_path):
    conditioner = living(**SURE, moe_stride=2, moe_dim=12, feed_forward="conv")
    conditioner.save_pretrained(tmp_path)
    again = MoEConditioner.from_pretrained(tmp_path)
    wide = latents().repeat(1, 1, 2, 1)
    assert again.config == conditioner.config and again.config["moe_dim"] == 12
    assert torch.equal(again(wide).identified, conditioner(wide).identified)
    assert torch.equal(again(wide).estimate, conditioner(wide).estimate)
    living().save_pretrained(tmp_path / "old")
    config = (tmp_path / "old/config.json").read_text()
    for line in ('  "moe_dim": null,\n', '  "feed_forward": "gated",\n', '  "identify": false,\n'):
        assert line in config
        config = config.replace(line, "")
    (tmp_path / "old/config.json").write_text(config.replace(',\n  "confidence": false', ""))
    old = MoEConditioner.from_pretrained(tmp_path / "old")
    assert "confidence" not in (tmp_path / "old/config.json").read_text() and old.identification is None
    assert torch.equal(old(latents()).residuals[-1], living()(latents()).residuals[-1])
