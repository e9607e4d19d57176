"""The meaning of the transformer's output: a velocity, or a clean latent that is turned into one."""

import hashlib
import json
import logging
from functools import partialmethod
from importlib.util import find_spec

import pytest
import torch
from diffusers import SD3Transformer2DModel

from mimdit.backbone import DiTBackbone
from mimdit.backbone.identity import weights_sha256
from mimdit.backbone.prediction import replaced_output, sample_to_velocity, zero_output_layer
from mimdit.core.rng import keyed_generator
from mimdit.flow import FlowMatching
from mimdit.training.flops import count_flops
from mimdit.training.losses import flow_error
from tests.tiny_models import ARCHITECTURE, FLUX, PIXART, randomize, tiny_backbone, tiny_batch

FAMILIES = pytest.mark.parametrize("architecture", [ARCHITECTURE, PIXART], ids=["sd3", "pixart"])
ALL_FAMILIES = pytest.mark.parametrize("architecture", [ARCHITECTURE, PIXART, FLUX], ids=["sd3", "pixart", "flux"])
LOSSES = pytest.mark.parametrize("on", ["velocity", "sample"])
SIGMA_MIN = 0.05
LEVELS = torch.tensor([0.0, 0.001, 0.049, 0.05, 0.3, 1.0])


def latents(batch=2, height=16, width=24, seed=0):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def knowing(architecture=ARCHITECTURE, **options):
    """A backbone that predicts one image whatever it is given, and that image: every patch of it is the bias of the last layer."""
    backbone = tiny_backbone(architecture=architecture, prediction="sample", **options)
    channels, patch = architecture["out_channels"], torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        backbone.transformer.proj_out.weight.zero_()
        backbone.transformer.proj_out.bias.copy_(torch.cat([patch, torch.ones(4, 4, channels - 3)], dim=2).flatten())
    return backbone, patch.permute(2, 0, 1).repeat(1, 4, 4)


@ALL_FAMILIES
def test_a_predicted_sample_becomes_a_velocity_with_a_floor_under_sigma(architecture):
    options = {"architecture": architecture, "sigma_min": 0.1}
    plain, backbone = tiny_backbone(**options), tiny_backbone(prediction="sample", **options)
    sigma = torch.tensor([0.02, 0.5])
    output = plain.velocity(latents(), sigma)
    expected = torch.stack([(latents()[0] - output[0]) / 0.1, (latents()[1] - output[1]) / 0.5])
    torch.testing.assert_close(backbone.velocity(latents(), sigma), expected, rtol=1e-5, atol=1e-5)


def test_the_conversion_is_fp32_whatever_comes_in():
    halves, sigma = (latents().bfloat16(), latents(seed=1).bfloat16()), torch.tensor([0.06, 0.9])
    found = sample_to_velocity(*halves, sigma, SIGMA_MIN)
    assert found.dtype == torch.float32
    assert torch.equal(found, sample_to_velocity(*(half.float() for half in halves), sigma, SIGMA_MIN))


@LOSSES
@pytest.mark.parametrize("flow", [{}, {"source": "estimate", "sigma_start": 0.4}], ids=["noise", "estimate"])
def test_the_true_sample_has_no_error_at_any_sigma(flow, on):
    clean, noise, estimate = (latents(len(LEVELS), 8, 8, seed) for seed in range(3))
    sigma = LEVELS * flow.get("sigma_start", 1)
    z, target = FlowMatching(**flow).interpolate(clean, noise, sigma, estimate)
    velocity = sample_to_velocity(clean, z, sigma, SIGMA_MIN)
    assert flow_error(velocity, target, sigma, on=on, sigma_min=SIGMA_MIN).max() < 1e-9
    unconverted = flow_error(velocity, target, sigma, on="velocity")  # against the path's own velocity it would have one
    assert unconverted[sigma < 0.04].min() > 0.1 and unconverted[sigma > 0.1].max() < 1e-9


def test_the_error_on_the_sample_is_that_of_the_sample_at_every_sigma():
    clean, noise, predicted = (latents(len(LEVELS), 8, 8, seed) for seed in range(3))
    z, target = FlowMatching().interpolate(clean, noise, LEVELS)
    expected = (predicted - clean).square().mean(dim=(1, 2, 3))
    converted = sample_to_velocity(predicted, z, LEVELS, SIGMA_MIN)
    torch.testing.assert_close(flow_error(converted, target, LEVELS, on="sample", sigma_min=SIGMA_MIN), expected, rtol=1e-4, atol=1e-5)
    weighed = expected / LEVELS.clamp_min(SIGMA_MIN).square()
    torch.testing.assert_close(flow_error(converted, target, LEVELS, on="velocity", sigma_min=SIGMA_MIN), weighed, rtol=1e-4, atol=1e-5)


def test_of_a_velocity_the_error_on_the_sample_is_that_of_the_sample_it_implies():
    clean, noise, velocity = (latents(len(LEVELS), 8, 8, seed) for seed in range(3))
    z, target = FlowMatching().interpolate(clean, noise, LEVELS)
    implied = z - LEVELS[:, None, None, None] * velocity
    expected = (implied - clean).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(flow_error(velocity, target, LEVELS, on="sample"), expected, rtol=1e-4, atol=1e-5)


@FAMILIES
@LOSSES
@pytest.mark.parametrize("flow", [{}, {"low_sigma_fraction": 1.0, "low_sigma": 0.04}], ids=["any sigma", "below sigma_min"])
def test_the_true_image_has_no_loss(architecture, on, flow):
    backbone, known = knowing(architecture, flow_loss_on=on, flow=FlowMatching(**flow))
    batch = tiny_batch(4)
    batch["gt"] = (known.expand(4, -1, -1, -1) + 1) / 2
    assert backbone.flow_loss(batch, 0) < 1e-8
    batch["gt"] = batch["gt"].flip(-1)
    assert backbone.flow_loss(batch, 0) > 1e-2


@FAMILIES
@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_sampling_from_noise_reaches_the_true_image_in_any_number_of_steps_that_ends_above_sigma_min(architecture, sampler, steps):
    backbone, known = knowing(architecture)
    with torch.no_grad():
        found = FlowMatching(sampler=sampler).sample(backbone.velocity, latents(2, 16, 16), 1.0, steps)
    torch.testing.assert_close(found, known.expand(2, -1, -1, -1), rtol=0, atol=1e-4)


@LOSSES
@pytest.mark.parametrize("prediction", ["velocity", "sample"])
def test_pretraining_loss_by_hand(prediction, on):
    flow = FlowMatching(low_sigma_fraction=0.5, low_sigma=0.05)
    backbone, batch = tiny_backbone(prediction=prediction, flow_loss_on=on, seed=3, flow=flow), tiny_batch(4)
    bare, clean, expected = tiny_backbone(seed=3), batch["gt"] * 2 - 1, []
    for image, key in zip(clean, batch["key"], strict=True):
        generator = keyed_generator(0, f"11/{key}")
        sigma = flow.draw_sigma(generator)
        noise = torch.randn(image.shape, generator=generator)
        output = bare.velocity(((1 - sigma) * image + sigma * noise)[None], sigma[None])[0]
        if prediction == "sample":
            error = (output - image).square().mean()
            expected.append(error if on == "sample" else error / max(float(sigma), SIGMA_MIN) ** 2)
        else:
            error = (output - (noise - image)).square().mean()
            expected.append(error if on == "velocity" else error * sigma**2)
    torch.testing.assert_close(backbone.flow_loss(batch, 11), torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)


@ALL_FAMILIES
def test_every_parameter_has_a_gradient_in_pretraining_on_samples(architecture):
    backbone = tiny_backbone(architecture=architecture, prediction="sample", flow_loss_on="sample")
    backbone.flow_loss(tiny_batch(), 0).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


@ALL_FAMILIES
def test_another_output_layer_replaces_the_last_one_within_the_context(architecture):
    backbone, sigma = tiny_backbone(architecture=architecture), torch.tensor([0.2, 0.9])
    transformer, other = backbone.transformer, tiny_backbone(architecture=architecture)
    layer = zero_output_layer(transformer)
    own = backbone.velocity(latents(), sigma)
    with replaced_output(transformer, layer):
        assert torch.count_nonzero(backbone._predict(latents(), sigma, None, None)) == 0
    randomize(layer, 7)
    other.transformer.proj_out.load_state_dict(layer.state_dict())
    with replaced_output(transformer, layer):
        found = backbone._predict(latents(), sigma, None, None)
        cost = count_flops(lambda: backbone._predict(latents(), sigma, None, None))
    assert torch.equal(found, other.velocity(latents(), sigma))
    assert cost == count_flops(lambda: backbone.velocity(latents(), sigma))  # the one that is replaced does not run
    assert torch.equal(backbone.velocity(latents(), sigma), own)
    with pytest.raises(RuntimeError), replaced_output(transformer, torch.nn.Linear(3, 3)):
        backbone._predict(latents(), sigma, None, None)
    assert torch.equal(backbone.velocity(latents(), sigma), own)  # also after an error


def test_an_output_layer_in_fp32_reads_a_bf16_transformer():
    backbone, anchor = tiny_backbone(dtype="bfloat16"), latents(seed=1)
    layer, sigma = zero_output_layer(backbone.transformer), torch.tensor([0.2, 0.9])
    assert layer.weight.dtype == torch.float32
    found = backbone.velocity(latents(), sigma, anchor=anchor, output_layer=layer)
    assert torch.equal(found, (latents() - anchor) / sigma[:, None, None, None])


def test_compiled_and_checkpointed_blocks_take_another_output_layer(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager", fullgraph=True))
    plain, fast = tiny_backbone(prediction="sample"), tiny_backbone(prediction="sample", compile=True, checkpointing=True)
    layer, sigma, found = zero_output_layer(plain.transformer), torch.tensor([0.2, 0.9]), []
    randomize(layer, 3)
    for backbone in (plain, fast):
        residual = latents(2, 4, 24).flatten(1).view(2, 24, -1)[..., :12].repeat(1, 1, 2)[..., :16].requires_grad_()
        velocity = backbone.velocity(latents(), sigma, [residual], anchor=latents(seed=1), output_layer=layer)
        found.append((velocity, *torch.autograd.grad(velocity.square().sum(), [residual, layer.weight])))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


def by_hand(transformer):
    digest = hashlib.sha256()
    for name, tensor in sorted(transformer.state_dict().items()):
        digest.update(f"{name}\x1f{tuple(tensor.shape)}\x1f".encode() + tensor.bfloat16().contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


@ALL_FAMILIES
def test_the_identity_depends_on_the_prediction_and_is_unchanged_for_a_velocity(architecture):
    told = {prediction: tiny_backbone(architecture=architecture, prediction=prediction) for prediction in (None, "velocity", "sample")}
    known = {prediction: weights_sha256(backbone.transformer) for prediction, backbone in told.items()}
    assert known[None] == known["velocity"] == by_hand(told[None].transformer) != known["sample"]


@ALL_FAMILIES
def test_the_prediction_travels_with_the_weights(tmp_path, architecture, caplog):
    backbone = tiny_backbone(architecture=architecture, prediction="sample")
    backbone.save_pretrained(tmp_path / "sample")
    tiny_backbone(architecture=architecture).save_pretrained(tmp_path / "velocity")
    configs = {name: json.loads((tmp_path / name / "config.json").read_text()) for name in ("sample", "velocity")}
    assert configs["sample"].pop("prediction_type") == "sample" and configs["sample"] == configs["velocity"]
    with caplog.at_level(logging.WARNING):
        again = DiTBackbone(str(tmp_path / "sample"))
    assert "prediction_type" not in caplog.text
    assert again.prediction == "sample" and DiTBackbone(str(tmp_path / "velocity")).prediction == "velocity"
    assert again.frozen_identity["transformer"]["sha256"] == backbone.frozen_identity["transformer"]["sha256"]
    assert DiTBackbone(str(tmp_path / "sample"), prediction="velocity").prediction == "velocity"
    again.save_pretrained(tmp_path / "twice", dtype=torch.float32)
    assert DiTBackbone(str(tmp_path / "twice")).prediction == "sample"
    built = DiTBackbone(None, architecture=json.loads((tmp_path / "sample/config.json").read_text()))
    assert built.prediction == "sample"


def test_diffusers_itself_reads_such_a_folder(tmp_path):
    backbone = tiny_backbone(prediction="sample")
    backbone.save_pretrained(tmp_path, dtype=torch.float32)
    state = SD3Transformer2DModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in backbone.transformer.state_dict().items())


@pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao; pip install 'mimdit[int8]'")
@torch.no_grad()
def test_in_int8_it_predicts_what_it_predicted_and_takes_another_output_layer(tmp_path):
    backbone, sigma = tiny_backbone(prediction="sample"), torch.tensor([0.2, 0.9])
    layer, exact = zero_output_layer(backbone.transformer), backbone.velocity(latents(), sigma)
    backbone.quantize(torch.float32)
    backbone.save_pretrained(tmp_path)
    again = DiTBackbone(str(tmp_path))
    assert again.prediction == backbone.prediction == "sample"
    assert torch.equal(again.velocity(latents(), sigma), backbone.velocity(latents(), sigma))
    torch.testing.assert_close(again.velocity(latents(), sigma), exact, rtol=0.1, atol=0.2)
    assert zero_output_layer(again.transformer).weight.shape == layer.weight.shape
    anchored = again.velocity(latents(), sigma, anchor=latents(seed=1), output_layer=layer)
    assert torch.equal(anchored, (latents() - latents(seed=1)) / sigma[:, None, None, None])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prediction": "epsilon"}, r"prediction 'epsilon' is unknown; choose one of velocity, sample"),
        ({"flow_loss_on": "noise"}, r"flow_loss_on 'noise' is unknown; choose velocity or sample"),
        ({"sigma_min": 0.0}, r"sigma_min=0.0 is outside \(0, 1\); 0.05 is usual"),
        ({"sigma_min": 1.0}, r"sigma_min=1.0 is outside"),
        ({"architecture": ARCHITECTURE | {"prediction_type": "epsilon"}}, r"prediction 'epsilon' is unknown"),
    ],
)
def test_a_wrong_argument_is_named_with_its_remedy(options, words):
    with pytest.raises(ValueError, match=words):
        tiny_backbone(**options)


def test_weights_of_another_prediction_are_not_taken_for_a_velocity(tmp_path):
    tiny_backbone(prediction="sample").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"prediction_type": "epsilon"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"prediction 'epsilon' is unknown; choose one of velocity, sample"):
        DiTBackbone(str(tmp_path))
    assert DiTBackbone(str(tmp_path), prediction="sample").prediction == "sample"
