"""Prompt embeddings."""

import pytest
import torch
from safetensors.torch import save_file

from mimdit.backbone.prompts import PromptEmbeddings, write_prompts
from tests.tiny_models import tiny_backbone


def write(path, **tensors):
    save_file({"prompt_embeds": torch.randn(5, 8), "pooled_prompt_embeds": torch.randn(8)} | tensors, path)
    return str(path)


def test_without_a_file_the_prompt_is_one_token_of_zeros():
    tokens, pooled = PromptEmbeddings(8, 6)(3)
    assert tokens.shape == (3, 1, 8) and pooled.shape == (3, 6)
    assert not tokens.any() and not pooled.any()


def test_every_image_gets_the_files_tokens(tmp_path):
    tokens, pooled = torch.randn(5, 8), torch.randn(8)
    said = PromptEmbeddings(8, 8, write(tmp_path / "prompt.safetensors", prompt_embeds=tokens, pooled_prompt_embeds=pooled))(2)
    assert torch.equal(said[0], tokens.repeat(2, 1, 1)) and torch.equal(said[1], pooled.repeat(2, 1))


def test_the_prompt_reaches_the_velocity_and_no_checkpoint(tmp_path):
    told, plain = tiny_backbone(prompt=write(tmp_path / "prompt.safetensors")), tiny_backbone()
    latents, sigma = torch.randn(1, 3, 16, 16), torch.ones(1)
    assert not torch.allclose(told.velocity(latents, sigma), plain.velocity(latents, sigma), rtol=1e-3)
    assert set(told.state_dict()) == set(plain.state_dict())


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"prompt_embeds": torch.zeros(5, 9)}, r"prompt_embeds must be 8 wide for this transformer, found \[5, 9\]"),
        ({"pooled_prompt_embeds": torch.zeros(4)}, r"pooled_prompt_embeds must be 8 wide for this transformer, found \[4\]"),
    ],
)
def test_a_wrong_width_is_named(tmp_path, tensors, words):
    with pytest.raises(ValueError, match=words):
        PromptEmbeddings(8, 8, write(tmp_path / "prompt.safetensors", **tensors))


def test_the_unconditional_prompt_comes_from_the_same_file_and_is_required_only_for_guidance(tmp_path):
    tokens, pooled = torch.randn(3, 5, 8), torch.randn(3, 6)
    write_prompts(tmp_path / "three.safetensors", ["a", "", "b"], tokens, pooled, made_with="a test")
    prompts = PromptEmbeddings(8, 6, str(tmp_path / "three.safetensors"), "b")
    assert torch.equal(prompts(2)[0], tokens[[2, 2]]) and torch.equal(prompts(2)[1], pooled[[2, 2]])
    said = prompts(3, torch.tensor([True, False, True]))
    assert torch.equal(said[0], tokens[[1, 2, 1]]) and torch.equal(said[1], pooled[[1, 2, 1]])
    negative = PromptEmbeddings(8, 6, str(tmp_path / "three.safetensors"), "", unconditional="a")
    assert torch.equal(negative(2, torch.tensor([False, True]))[0], tokens[[1, 0]])
    unmet = PromptEmbeddings(8, 6, str(tmp_path / "three.safetensors"), "b", unconditional="c")
    assert torch.equal(unmet(1)[0], tokens[2:])
    with pytest.raises(ValueError, match="guidance=2 needs the prompt 'c' beside another one, and this backbone has none"):
        unmet.require_unconditional("guidance=2")


def test_a_transformer_without_pooled_text_needs_none_in_the_file(tmp_path):
    save_file({"prompt_embeds": torch.randn(5, 8)}, tmp_path / "tokens.safetensors")
    tokens, pooled = PromptEmbeddings(8, 0, str(tmp_path / "tokens.safetensors"))(2)
    assert tokens.shape == (2, 5, 8) and pooled.shape == (2, 0)


def test_several_prompts_without_their_texts_are_refused(tmp_path):
    path = write(tmp_path / "prompts.safetensors", prompt_embeds=torch.zeros(2, 5, 8), pooled_prompt_embeds=torch.zeros(2, 8))
    with pytest.raises(ValueError, match=rf"{path} hold several prompts without their texts; write them with mimdit prompts encode"):
        PromptEmbeddings(8, 8, path)


def test_missing_tensors_and_broken_files_are_named(tmp_path):
    path = tmp_path / "prompt.safetensors"
    with pytest.raises(ValueError, match=rf"{path} do not exist; give a safetensors file"):
        PromptEmbeddings(8, 8, str(path))
    path.write_text("not safetensors")
    with pytest.raises(ValueError, match=rf"{path} cannot be read .*; give a safetensors file"):
        PromptEmbeddings(8, 8, str(path))
    save_file({"prompt_embeds": torch.zeros(5, 8)}, path)
    with pytest.raises(ValueError, match=r"pooled_prompt_embeds must be 8 wide for this transformer, found nothing"):
        PromptEmbeddings(8, 8, str(path))
