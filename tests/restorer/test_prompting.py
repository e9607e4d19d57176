"""Text that steers the restoration."""

import pytest
import torch

from mimdit.backbone.prompts import OTHER, Prompts, write_prompts
from mimdit.core.batch import ATOMS
from mimdit.restorer.prompting import degradations_to_remove, prompt_options
from mimdit.restorer.restorer import Restorer
from tests.tiny_models import randomize, tiny_batch, tiny_restorer

TOKENS, WIDTH, POOLED = 5, 8, 8


@pytest.fixture
def file(tmp_path):
    """The empty prompt, two texts of haze and one of each other degradation."""
    texts = ["", "a photo with haze", "fog everywhere", *(f"a photo with {atom}" for atom in ATOMS if atom != "haze")]
    atoms = [OTHER, "haze", "haze", *(atom for atom in ATOMS if atom != "haze")]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(len(texts), TOKENS, WIDTH, generator=generator)
    pooled = torch.randn(len(texts), POOLED, generator=generator)
    path = tmp_path / "texts.safetensors"
    write_prompts(path, texts, tokens, pooled, made_with="a test", atoms=atoms, encoding={"t5": False, "t5_tokens": 0})
    return str(path)


def made(file: str | None, **options) -> Restorer:
    conditioner = {"identify": True} | options.pop("conditioner", {})
    backbone = {"prompt": file} | options.pop("backbone", {})
    restorer = tiny_restorer(backbone=backbone, conditioner=conditioner, flow={"start": "noise", "steps": 2}, **options)
    randomize(restorer.conditioner, 3)
    return restorer.eval()


def images(*size: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(1))


def test_a_mixture_is_the_weighted_mean(file):
    prompts = made(file).backbone.prompts
    weights = torch.zeros(3, len(ATOMS))
    weights[1, ATOMS.index("haze")] = 1
    weights[2, ATOMS.index("haze")], weights[2, ATOMS.index("rain")] = 0.5, 0.8
    tokens, pooled = prompts.mixed(weights)
    haze, rain = prompts.text_embeds[1:3].mean(dim=0), prompts.text_embeds[prompts.atoms.index("rain")]
    torch.testing.assert_close(tokens[0], prompts.text_embeds[0])  # no degradation: the backbone's prompt
    torch.testing.assert_close(tokens[1], haze)
    nothing = 0.5 * 0.2
    torch.testing.assert_close(tokens[2], (nothing * prompts.text_embeds[0] + 0.5 * haze + 0.8 * rain) / (nothing + 1.3))
    assert tokens.shape == (3, TOKENS, WIDTH) and pooled.shape == (3, POOLED)


def test_detected_prompts_are_those_of_the_identified_mixture(file):
    restorer, given, seen = made(file), images(2, 3, 32, 32), []
    expected_prompts = None

    def record(decisions):
        nonlocal expected_prompts
        expected_prompts = restorer.backbone.prompts.mixed(torch.sigmoid(decisions.identified))

    found = restorer.restore(given, prompting="detected", on_decisions=record)
    plain = restorer.backbone.velocity

    def told(*args, **options):
        seen.append(options["prompts"])
        return plain(*args, **options | {"prompts": expected_prompts})

    restorer.backbone.velocity = told
    torch.testing.assert_close(restorer.restore(given), found)
    assert seen == [None, None]  # off by default
    restorer.backbone.velocity = plain
    assert not torch.allclose(restorer.restore(given), found, atol=1e-4)


def test_a_given_prompt_is_the_nearest_cached_text(file):
    restorer, given = made(file), images(1, 3, 32, 32)
    prompts, text = restorer.backbone.prompts.nearest("so much fog", 1)
    assert text == "fog everywhere" and torch.equal(prompts.tokens[0], restorer.backbone.prompts.text_embeds[2])
    found = restorer.restore(given, prompt="so much fog")
    torch.testing.assert_close(found, restorer.restore(given, prompting="given", prompt="fog everywhere"))
    assert not torch.allclose(found, restorer.restore(given, prompt="rain"), atol=1e-4)
    options, said = prompt_options(restorer, "so much fog")
    assert options == {"prompting": "given", "prompt": "so much fog"} and "nearest cached text is 'fog everywhere'" in said


def test_a_text_encoder_replaces_the_nearest_text(file):
    restorer = made(file)
    tokens, pooled = torch.randn(TOKENS, WIDTH), torch.randn(POOLED)
    options, said = prompt_options(restorer, "so much fog", lambda text: (tokens, pooled))
    assert said == "prompt 'so much fog': encoded"
    prompts, text = restorer.backbone.prompts.nearest(options["prompt"], 2)
    assert text == "so much fog" and torch.equal(prompts.tokens[1], tokens) and torch.equal(prompts.pooled[0], pooled)
    with pytest.raises(ValueError, match=r"was encoded as \[4, 8\], the cached texts as \[5, 8\]; use the same text encoders"):
        prompt_options(restorer, "rain please", lambda text: (tokens[:4], pooled))


def test_tiles_and_batches_keep_the_prompts_of_their_images(file):
    restorer, given = made(file), images(2, 3, 96, 64)
    given[1] *= 0.2
    both = restorer.restore(given, prompting="detected")
    for index in range(2):
        one = restorer.restore(given[index : index + 1], prompting="detected")
        torch.testing.assert_close(both[index : index + 1], one, rtol=0, atol=1e-5)
    torch.testing.assert_close(restorer.restore(given, prompting="detected", tile=64), both, rtol=0, atol=1e-4)
    assert max(given.shape[2:]) > restorer.tile and (both - restorer.restore(given)).abs().max() > 1e-3


def test_guidance_compares_with_the_unconditional_prompt(file):
    backbone = made(file).backbone
    latents, sigma = torch.randn(2, 3, 16, 16), torch.full((2,), 0.5)
    told = Prompts(torch.randn(2, TOKENS, WIDTH), torch.randn(2, POOLED))
    with_prompt, without = backbone.velocity(latents, sigma, prompts=told), backbone.velocity(latents, sigma)
    guided = backbone.velocity(latents, sigma, prompts=told, guidance=3.0)
    torch.testing.assert_close(guided, without + 3 * (with_prompt - without), rtol=1e-4, atol=1e-4)
    dropped = backbone.velocity(latents, sigma, prompts=told, dropped=torch.tensor([True, False]))
    torch.testing.assert_close(dropped, torch.stack([without[0], with_prompt[1]]), rtol=1e-4, atol=1e-5)


def test_training_reads_the_labels(file, monkeypatch):
    restorer = made(file, prompting="detected", backbone={"prompt": file, "prompt_dropout": 0.5})
    monkeypatch.setattr(restorer, "log", lambda *_, **__: None)
    batch, seen = tiny_batch(batch=3), []
    restorer._trainer = None
    plain = restorer.backbone.velocity
    restorer.backbone.velocity = lambda *args, **options: seen.append(options["prompts"]) or plain(*args, **options)
    restorer.train().training_step(batch, 0)["loss"].backward()
    torch.testing.assert_close(seen[0].tokens, restorer.backbone.prompts.mixed(batch["degradation"]).tokens)
    assert all(parameter.grad is None for parameter in restorer.conditioner.identification.parameters())


def test_the_prompting_is_exported(file, tmp_path):
    restorer = made(file, prompting="detected")
    restorer.save_pretrained(tmp_path / "folder")
    again = Restorer.from_pretrained(tmp_path / "folder", backbone=restorer.backbone)
    assert again.prompting == "detected" == again.sampling_settings().prompting
    assert again.with_conditioner(again.conditioner).prompting == "detected"


def test_what_is_missing_is_named(file, tmp_path):
    with pytest.raises(ValueError, match=r"prompting: detected needs texts by degradation.*none for blur, noise.*--by_atom=default"):
        made(None, prompting="detected")
    with pytest.raises(ValueError, match="prompting 'given' is unknown; a restorer has one of none, detected"):
        made(file, prompting="given")
    with pytest.raises(ValueError, match="prompting: detected reads the identified degradations.*identify: false"):
        made(file, conditioner={"identify": False}).sampling_settings(prompting="detected")
    with pytest.raises(ValueError, match="needs the DiT, which does not run with steps=0"):
        made(file).sampling_settings(prompt="haze", steps=0, start="degraded")
    with pytest.raises(ValueError, match=r"prompt 'haze': this backbone reads no text; name what to remove, such as only=\['haze'\]"):
        Restorer.from_pretrained().sampling_settings(prompt="haze")
    with pytest.raises(ValueError, match="prompting=given needs a prompt; set prompt"):
        made(file).sampling_settings(prompting="given")
    with pytest.raises(ValueError, match="prompt='haze' needs prompting=given, not detected"):
        made(file).sampling_settings(prompting="detected", prompt="haze")
    with pytest.raises(ValueError, match="prompting 'seen' is unknown; choose one of none, detected, given"):
        made(file).sampling_settings(prompting="seen")
    write_prompts(tmp_path / "few.safetensors", ["", "haze"], torch.zeros(2, 5, 8), torch.zeros(2, 8), made_with="", atoms=[OTHER, "haze"])
    with pytest.raises(ValueError, match="none for blur, noise, jpeg, rain, raindrop, lowlight"):
        made(str(tmp_path / "few.safetensors"), prompting="detected")


def test_the_prompt_of_settings_goes_with_their_prompting(file):
    restorer = made(file)
    settings = restorer.sampling_settings(prompt="a photo with haze")
    assert restorer.sampling_settings(settings, steps=1).prompt == "a photo with haze"
    for prompting in ("none", "detected"):
        changed = restorer.sampling_settings(settings, prompting=prompting)
        assert (changed.prompting, changed.prompt) == (prompting, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("remove the haze, keep the grain", ("haze",)),
        ("Remove haze and noise", ("noise", "haze")),
        ("denoise and deblur", ("blur", "noise")),
        ("brighten the dark photo but leave the rain", ("lowlight",)),
        ("everything but keep the grain", ("blur", "jpeg", "haze", "rain", "raindrop", "lowlight")),
        ("raindrops on the window", ("raindrop",)),
        ("no more rain, please", ("rain",)),
        ("Do not touch the grain; the picture is too dark", ("lowlight",)),
        ("a photo without haze, without losing the rain", ("haze",)),
        ("it is foggy. JPEG artifacts, too", ("jpeg", "haze")),
        ("remove the haze and keep the grain", ("haze",)),
        ("keep the grain and remove the haze", ("haze",)),
        ("remove haze (keep grain)", ("haze",)),
        ("remove haze: keep grain", ("haze",)),
        ("remove haze \u2014 keep grain", ("haze",)),
        ("remove haze - keep grain", ("haze",)),
        ("remove haze yet keep noise", ("haze",)),
        ("remove haze and leave the rain", ("haze",)),
        ("remove haze rather than noise", ("haze",)),
        ("remove haze without affecting the grain", ("haze",)),
        ("don\u2019t keep the haze", ("haze",)),
        ("don\u2019t remove the rain", ("blur", "noise", "jpeg", "haze", "raindrop", "lowlight")),
        ("remove everything but rain", ("blur", "noise", "jpeg", "haze", "raindrop", "lowlight")),
        ("remove everything apart from the rain", ("blur", "noise", "jpeg", "haze", "raindrop", "lowlight")),
        ("remove all but the noise", ("blur", "jpeg", "haze", "rain", "raindrop", "lowlight")),
        ("remove nothing but the rain", ("rain",)),
        ("leave no noise behind", ("noise",)),
        ("keep none of the fog and keep the grain", ("haze",)),
        ("drop the noise", ("noise",)),
        ("drop noise and haze", ("noise", "haze")),
        ("do not drop the noise", ("blur", "jpeg", "haze", "rain", "raindrop", "lowlight")),
        ("remove the drop", ("raindrop",)),
        ("keep nothing but the rain", ("blur", "noise", "jpeg", "haze", "raindrop", "lowlight")),
    ],
)
def test_words_choose_what_is_removed(text, expected):
    assert degradations_to_remove(text) == expected
    assert prompt_options(made(None), text)[0] == {"only": expected}


def test_words_that_choose_nothing_are_refused():
    with pytest.raises(ValueError, match="names no degradation; name some of blur, noise"):
        degradations_to_remove("make it nice")
    with pytest.raises(ValueError, match="names haze both to remove and to keep; name each once"):
        degradations_to_remove("remove the haze, keep the haze")
    with pytest.raises(ValueError, match="text_encoders are given, but this backbone"):
        prompt_options(made(None), "haze", lambda text: (torch.zeros(5, 8), torch.zeros(8)))
