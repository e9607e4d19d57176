"""Prompt embeddings, against diffusers' own pipelines with tiny text encoders."""

import json
import string
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, StableDiffusion3Pipeline
from safetensors import safe_open
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from mimdit import cli
from mimdit.backbone.prompts import PromptEmbeddings
from mimdit.commands.prompting import prompting_options
from mimdit.restorer.restorer import Restorer
from tests.tiny_checkpoints import tiny_transformer, tiny_vae
from tests.tiny_models import FLUX, randomize, tiny_backbone

WIDTH, POOLED, CLIP_TOKENS = 24, 16, 16
PROMPTS = ["", "a sharp photo", "rain"]


def clip_tokenizer(padding):
    pieces = ["<|startoftext|>", "<|endoftext|>", "!", *string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=CLIP_TOKENS, pad_token=padding)


def clip_encoder(width, projection, seed):
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "projection_dim": projection}
    config = CLIPTextConfig(**sizes, vocab_size=60, max_position_embeddings=CLIP_TOKENS, bos_token_id=0, eos_token_id=1, pad_token_id=1)
    model = CLIPTextModelWithProjection(config).eval()
    randomize(model, seed)
    return model


def t5_parts():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in string.ascii_lowercase)]
    sizes = {"d_model": WIDTH, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    model = T5EncoderModel(T5Config(**sizes, vocab_size=40)).eval()
    randomize(model, 3)
    return T5TokenizerFast(vocab=pieces, extra_ids=0), model


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A whole SD3 pipeline, saved, with the pipeline itself."""
    transformer = tiny_transformer("sd3-medium", joint_attention_dim=WIDTH, pooled_projection_dim=POOLED)
    tokenizer, encoder = t5_parts()
    whole = StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=tiny_vae(),
        text_encoder=clip_encoder(8, 6, 1), tokenizer=clip_tokenizer("<|endoftext|>"),
        text_encoder_2=clip_encoder(12, 10, 2), tokenizer_2=clip_tokenizer("!"),
        text_encoder_3=encoder, tokenizer_3=tokenizer,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("pipeline")
    whole.save_pretrained(folder)
    return folder, whole


@torch.no_grad()
def expected(whole, prompts, t5_tokens):
    embeds, _, pooled, _ = whole.encode_prompt(
        prompts, prompts, prompts, device="cpu", do_classifier_free_guidance=False, max_sequence_length=t5_tokens
    )
    return embeds, pooled


def assert_alike(found, wanted):
    """Equal but for how a matrix product rounds where its weights lie elsewhere in memory."""
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def encode(folder, file, *options):
    cli.main(["prompts", "encode", str(folder), str(file), *options])
    with safe_open(file, "pt") as opened:
        return opened.get_tensor("prompt_embeds"), opened.get_tensor("pooled_prompt_embeds"), json.loads(opened.metadata()["prompts"])


def test_several_prompts_are_those_of_diffusers_and_each_can_be_chosen(pipeline, tmp_path):
    folder, whole = pipeline
    file = tmp_path / "new" / "prompts.safetensors"
    embeds, pooled, prompts = encode(folder, file, f"--prompts={json.dumps(PROMPTS)}", "--t5-tokens=20")
    wanted = expected(whole, PROMPTS, 20)
    assert prompts == PROMPTS
    assert_alike((embeds, pooled), wanted)
    assert embeds.shape == (3, CLIP_TOKENS + 20, WIDTH) and pooled.shape == (3, POOLED)
    assert all(not torch.allclose(embeds[one], embeds[other], atol=1e-3) for one, other in ((0, 1), (1, 2), (0, 2)))

    read = PromptEmbeddings(WIDTH, POOLED, str(file), "rain")(2)
    assert torch.equal(read[0], embeds[2].repeat(2, 1, 1)) and torch.equal(read[1], pooled[2].repeat(2, 1))
    with pytest.raises(ValueError, match=r"hold '', 'a sharp photo', 'rain'; name one as prompt_text"):
        PromptEmbeddings(WIDTH, POOLED, str(file))
    with pytest.raises(ValueError, match=r"prompt text 'snow' is not among '', 'a sharp photo', 'rain'; choose one of them"):
        PromptEmbeddings(WIDTH, POOLED, str(file), "snow")


def test_the_empty_prompt_is_the_default_and_a_backbone_reads_it(pipeline, tmp_path, capsys):
    folder, whole = pipeline
    file = tmp_path / "empty.safetensors"
    embeds, pooled, prompts = encode(folder, file)
    wanted = expected(whole, [""], 256)
    assert prompts == [""]
    assert_alike((embeds, pooled), (wanted[0][0], wanted[1][0]))
    assert capsys.readouterr().out == f"wrote {file}: 1 prompts of 272 tokens, 24 wide, pooled 16 wide\n"
    shape = dict(tiny_backbone().transformer.config) | {"joint_attention_dim": WIDTH, "pooled_projection_dim": POOLED}
    told = tiny_backbone(architecture={name: value for name, value in shape.items() if not name.startswith("_")}, prompt=str(file))
    assert torch.equal(told.prompts(1)[0], embeds[None])


def test_without_t5_its_tokens_are_zeros_and_its_encoder_is_not_needed(pipeline, tmp_path):
    folder, whole = pipeline
    small = tmp_path / "small"
    for part in ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "transformer"):
        (small / part).mkdir(parents=True)
        for file in (folder / part).iterdir():
            (small / part / file.name).symlink_to(file)
    encoder, whole.text_encoder_3 = whole.text_encoder_3, None
    try:
        wanted = expected(whole, PROMPTS, 20)
    finally:
        whole.text_encoder_3 = encoder
    options = [f"--prompts={json.dumps(PROMPTS)}", "--t5=false"]
    embeds, pooled, _ = encode(small, tmp_path / "without.safetensors", *options, "--t5_tokens=20")
    assert_alike((embeds, pooled), wanted)
    assert not embeds[:, CLIP_TOKENS:].any()
    short, _, _ = encode(small, tmp_path / "short.safetensors", *options, "--t5_tokens=0")
    assert_alike((short,), (wanted[0][:, :CLIP_TOKENS],))
    with pytest.raises(SystemExit):
        cli.main(["prompts", "encode", str(small), str(tmp_path / "with.safetensors")])
    assert not (tmp_path / "with.safetensors").exists()


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(pipeline, tmp_path):
    folder, whole = pipeline
    long = "a very long prompt of many words"
    with pytest.warns(UserWarning, match=rf"text_encoder_2 cuts the prompt '{long}' of \d+ tokens at {CLIP_TOKENS}"):
        embeds, _, _ = encode(folder, tmp_path / "long.safetensors", f"--prompts={json.dumps([long])}", "--t5_tokens=40")
    assert_alike((embeds,), (expected(whole, [long], 40)[0][0],))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["{empty}", "file"], "transformer/config.json is missing; give the folder of an SD3 or FLUX.1 pipeline"),
        (["/no/where", "file"], "'/no/where' is neither a pipeline's folder nor a hub id such as stabilityai/"),
        (["{folder}", "file", "--prompts=[]"], "0 prompts and t5_tokens=256: give a prompt, which may be empty"),
        (["{folder}", "file", "--t5_tokens=-1"], "t5_tokens=-1: give a prompt, which may be empty, and no negative number"),
        (["{folder}", "file", "--variant=fp16"], "cannot be read"),
    ],
)
def test_mistakes_are_told_in_one_paragraph(pipeline, tmp_path, capsys, options, words):
    places = {"empty": tmp_path, "folder": pipeline[0]}
    with pytest.raises(SystemExit) as end:
        cli.main(["prompts", "encode", *(option.format(**places) for option in options)])
    error = capsys.readouterr().err
    assert end.value.code == 2 and words in error and error.startswith("error: ") and error.count("\n") == 2


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    """A whole FLUX.1 pipeline, saved, with the pipeline itself."""
    encoder = CLIPTextModel(clip_encoder(8, 6, 1).config).eval()
    randomize(encoder, 1)
    tokenizer, t5 = t5_parts()
    whole = FluxPipeline(
        transformer=tiny_transformer("flux.1-dev", joint_attention_dim=WIDTH), scheduler=FlowMatchEulerDiscreteScheduler(), vae=tiny_vae(),
        text_encoder=encoder, tokenizer=clip_tokenizer("<|endoftext|>"), text_encoder_2=t5, tokenizer_2=tokenizer,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("flux")
    whole.save_pretrained(folder)
    return folder, whole


@torch.no_grad()
def test_those_of_flux_are_t5s_tokens_and_clips_pooled_embedding(flux, tmp_path):
    folder, whole = flux
    embeds, pooled, _ = encode(folder, tmp_path / "prompts.safetensors", f"--prompts={json.dumps(PROMPTS)}", "--t5_tokens=20")
    assert_alike((embeds, pooled), whole.encode_prompt(PROMPTS, device="cpu", max_sequence_length=20)[:2])
    assert embeds.shape == (3, 20, WIDTH) and pooled.shape == (3, 8)
    assert all(not torch.allclose(pooled[one], pooled[other], atol=1e-3) for one, other in ((0, 1), (1, 2), (0, 2)))
    told = tiny_backbone(
        architecture=FLUX | {"joint_attention_dim": WIDTH}, prompt=str(tmp_path / "prompts.safetensors"), prompt_text="rain"
    )
    assert torch.equal(told.prompts(1)[0], embeds[2:])


@torch.no_grad()
def test_the_tokens_of_flux_are_by_default_as_many_as_in_its_pipeline(flux, tmp_path):
    folder, whole = flux
    embeds, pooled, _ = encode(folder, tmp_path / "prompts.safetensors")
    wanted = whole.encode_prompt("", device="cpu")
    assert_alike((embeds[None], pooled[None]), wanted[:2])
    assert embeds.shape == (512, WIDTH)


@pytest.mark.parametrize("option", ["--t5=false", "--t5_tokens=0"])
def test_flux_needs_t5(flux, tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        cli.main(["prompts", "encode", str(flux[0]), str(tmp_path / "prompts.safetensors"), option])
    assert "all text tokens of FLUX.1 are T5's; use t5: true and 1 token or more" in capsys.readouterr().err


def test_texts_by_degradation_are_encoded_with_their_degradation(pipeline, tmp_path, capsys):
    folder, whole = pipeline
    (tmp_path / "texts.yaml").write_text("haze: a photo with haze\nrain: [rain, much rain]\n")
    file = tmp_path / "texts.safetensors"
    tokens, pooled, texts = encode(folder, file, "--by_atom", str(tmp_path / "texts.yaml"), "--t5_tokens=8")
    assert texts == ["", "a photo with haze", "rain", "much rain"] and "4 prompts" in capsys.readouterr().out
    assert_alike((tokens, pooled), expected(whole, texts, 8))
    prompts = PromptEmbeddings(WIDTH, POOLED, str(file))
    assert prompts.atoms == ["other", "haze", "rain", "rain"] and prompts.encoding == {"t5": True, "t5_tokens": 8}
    assert torch.equal(prompts(1)[0], tokens[:1]) and torch.equal(prompts.nearest("hazy", 1)[0].tokens, tokens[1:2])
    with pytest.raises(ValueError, match="none for blur, noise, jpeg, raindrop, lowlight"):
        prompts.require_atoms("prompting: detected")


def test_a_prompt_of_the_user_is_encoded_as_the_cached_ones_were(pipeline, tmp_path):
    folder, whole = pipeline
    file = tmp_path / "texts.safetensors"
    (tmp_path / "texts.yaml").write_text("haze: haze")
    encode(folder, file, "--by_atom", str(tmp_path / "texts.yaml"), "--t5=false", "--t5_tokens=0")
    restorer = SimpleNamespace(backbone=SimpleNamespace(prompts=PromptEmbeddings(WIDTH, POOLED, str(file))))
    options = prompting_options(cast(Restorer, restorer), None, None, "no more rain", str(folder))
    assert options == {"prompting": "given", "prompt": "no more rain"}
    found, text = restorer.backbone.prompts.nearest("no more rain", 1)
    embeds, pooled = expected(whole, ["no more rain"], 8)
    assert text == "no more rain"
    assert_alike(found, (embeds[:, :CLIP_TOKENS], pooled))
