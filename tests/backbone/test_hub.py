"""Hub ids, without a network: the cache, and each way in which the hub says no."""

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from mimdit.backbone import DiTBackbone
from tests.backbone.test_layouts import Channels
from tests.tiny_checkpoints import latents, tiny_transformer, write_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = "stabilityai/stable-diffusion-3.5-medium"
PAGE = f"https://huggingface.co/{GATED}"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An offline hub with an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def read(name, **options):
    return DiTBackbone(name, codec=Channels(4), **options)


def put(cache, layout):
    repository = cache / "models--lab--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    model = tiny_transformer("sd3.5-medium")
    return model, write_checkpoint(model, repository / "snapshots" / COMMIT, layout)


@pytest.mark.parametrize("layout", ["pipeline", "sharded variant"])
def test_a_cached_hub_id_is_read_offline_with_its_commit(cache, layout):
    model, told = put(cache, layout)
    backbone = read("lab/tiny", variant=told["variant"])
    state = backbone.transformer.state_dict()
    assert all((state[name] == tensor).all() for name, tensor in model.state_dict().items())
    assert (backbone.transformer.origin.source, backbone.transformer.origin.revision) == ("lab/tiny", COMMIT)
    assert latents().shape[1] == backbone.latent_channels


def test_offline_without_a_cached_copy_the_error_names_the_download(cache):
    with pytest.raises(ValueError) as failure:
        read(GATED, revision="v1")
    message = str(failure.value)
    assert "\n" not in message and message.startswith(f"{GATED} cannot be read: it is no folder here, and the hub cannot be reached")
    assert f"run `hf download {GATED} --revision v1 --include 'transformer/*' --local-dir FOLDER`" in message
    assert str(cache) in message and message.endswith("copy FOLDER to where this runs, and give its path instead of the hub id")


def test_a_misspelled_folder_that_looks_like_a_hub_id_is_named_as_no_folder(cache):
    with pytest.raises(ValueError, match=r"weights/sd35-medum cannot be read: it is no folder here, and the hub cannot be reached"):
        read("weights/sd35-medum")


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (errors.GatedRepoError, rf"^{GATED} cannot be read: it is gated on the hub: accept its license at {PAGE} and log in"),
        (errors.RepositoryNotFoundError, rf"^'{GATED}' is no folder here and no repository of the hub that you may see: correct"),
        (errors.RevisionNotFoundError, rf"^{GATED} has no revision 'v9' on the hub; choose a branch, tag or commit listed at https:"),
        (errors.HfHubHTTPError, rf"^{GATED} cannot be read: it is no folder here, and the hub cannot be reached"),
    ],
)
def test_each_refusal_of_the_hub_is_one_paragraph(monkeypatch, refusal, words):
    def refuse(*args, **options):
        raise refusal("403 Client Error.\n\nCannot access gated repo", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=words) as failure:
        read(GATED, revision="v9")
    assert "\n" not in str(failure.value)


def test_only_the_files_of_one_variant_are_downloaded(monkeypatch):
    asked = {}

    def answer(repository, **options):
        asked.update(options, repository=repository)
        raise errors.LocalEntryNotFoundError("stop here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    with pytest.raises(ValueError, match="cannot be reached"):
        read(GATED, revision=COMMIT)
    stem = "transformer/diffusion_pytorch_model"
    wanted = ["transformer/config.json", f"{stem}.safetensors", f"{stem}-00001-of-00002.safetensors", f"{stem}.safetensors.index.json"]
    others = [f"{stem}.fp16.safetensors", f"{stem}.bin", "text_encoder_3/model-00001-of-00002.safetensors", "sd3_medium.safetensors"]
    chosen = list(huggingface_hub.utils.filter_repo_objects(wanted + others, allow_patterns=asked["allow_patterns"]))
    assert chosen == wanted and (asked["repository"], asked["revision"]) == (GATED, COMMIT)
