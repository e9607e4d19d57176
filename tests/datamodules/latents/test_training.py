"""Training on cached latents, against training on the crops that they were made of."""

import itertools
import json
import shutil

import lightning as L
import pytest
import torch

from datamodules import RestorationDataModule
from datamodules.decoding import decode_image
from datamodules.shards import ShardError, ShardIndex, Sidecar, read_shard, write_shard
from datamodules.shards.latents import pack_latents
from mimdit.backbone import VAECodec
from mimdit.core.batch import Batch
from mimdit.restorer.restorer import Restorer
from tests.datamodules.latents.made_latents import CROP, make_latents, stored, tensors, write_vae
from tests.datamodules.made_shards import make_folder
from tests.tiny_models import ARCHITECTURE, tiny_backbone, tiny_restorer
from tests.tiny_training import train

SHAPE = ARCHITECTURE | {"in_channels": 4, "out_channels": 4, "patch_size": 2}
CONDITIONER = {"latent_channels": 4, "token_patch": 2, "patch_size": 1, "estimate": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with ``exact``, ``float16`` and ``bfloat16``: latents of the same crops in three types, the first with the images."""
    tmp_path = tmp_path_factory.mktemp("types")
    for dtype in ("float16", "bfloat16"):
        make_latents(tmp_path, dtype, dtype=dtype)
    make_latents(tmp_path, "exact", dtype="float32", keep_images=True)
    return tmp_path


def restorer(folder, posterior="mean", seed=0) -> Restorer:
    codec = VAECodec(write_vae(folder / f"vae{seed}", seed), posterior=posterior)
    return tiny_restorer(backbone={"architecture": SHAPE, "codec": codec}, conditioner=CONDITIONER, estimate_weight=1.0)


def datamodule(place, **options) -> RestorationDataModule:
    given = {"batch_size": 4, "crop": CROP, "num_workers": 0, "eval_num_workers": 0, "max_bad_samples": 0}
    return RestorationDataModule(str(place), **given | options)


def batches(data: RestorationDataModule, count: int) -> list[Batch]:
    return list(itertools.islice(data.train_dataloader(), count))


def as_images(latent_batches: list[Batch], index: ShardIndex) -> list[Batch]:
    """The same batches, of the stored images of the same crops in place of the latents."""
    samples = stored(index)
    found = []
    for batch in latent_batches:
        sides = {side: torch.stack([decoded(getattr(samples[key], side)) for key in batch["key"]]) for side in ("lq", "gt")}
        found.append({name: value for name, value in batch.items() if not name.endswith("_latent")} | sides)
    return found


def decoded(png: bytes) -> torch.Tensor:
    return torch.from_numpy(decode_image(png, "it")).permute(2, 0, 1).float() / 255


def test_batches_hold_the_stored_posteriors_and_no_images(folder):
    samples = stored(ShardIndex.load(folder / "float16"))
    found = batches(datamodule(folder / "float16"), 5)
    assert sorted(key for batch in found for key in batch["key"])[:2] == sorted(samples)[:2]
    for batch in found:
        assert "lq" not in batch and "gt" not in batch
        assert batch["lq_latent"].dtype == torch.float16 and batch["lq_latent"].shape == (4, 8, 8, 8)
        for number, key in enumerate(batch["key"]):
            assert torch.equal(torch.stack([batch["lq_latent"][number], batch["gt_latent"][number]]), tensors(samples[key]))
            assert batch["group"][number] == key.partition("/")[0] and batch["draw"][number] == f"{batch['draw'][number][0]}/{key}/0"
            assert batch["degradation"][number].sum() == 1


@pytest.mark.parametrize("posterior", ["mean", "sample"])
@pytest.mark.parametrize("dtype, tolerance", [("exact", 1e-5), ("float16", 3e-3), ("bfloat16", 3e-2)])
def test_latents_and_loss_are_those_of_encoding_the_same_crops_while_training(folder, posterior, dtype, tolerance):
    cached = batches(datamodule(folder / dtype), 1)
    online = as_images(cached, ShardIndex.load(folder / "exact"))
    models = [restorer(folder, posterior) for _ in range(2)]
    for side, draws in (("lq", None), ("gt", cached[0]["draw"])):
        found, wanted = (models[0].backbone.encode_side(batch, side, draws) for (batch,) in (cached, online))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    found, wanted = (train(model, each).callback_metrics["train/loss"] for model, each in zip(models, (cached, online)))
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=0)


def test_a_sampled_posterior_belongs_to_the_draw_whatever_the_batch(folder):
    backbone = restorer(folder, "sample").backbone
    (batch,) = batches(datamodule(folder / "exact"), 1)
    whole = backbone.encode_side(batch, "gt", batch["draw"])
    alone = {"gt_latent": batch["gt_latent"][2:3]}
    assert torch.equal(backbone.encode_side(alone, "gt", batch["draw"][2:3]), whole[2:3])
    assert not torch.allclose(backbone.encode_side(alone, "gt", ["9/other/0"]), whole[2:3], atol=0.1)
    assert not torch.allclose(backbone.encode_side(batch, "gt"), whole, atol=0.1)  # the mean


def fit(model, data, **options) -> L.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=2, num_sanity_val_steps=0, **quiet | options)
    trainer.fit(model, data)
    return trainer


def test_restorer_and_backbone_train_on_them_with_workers_and_validate_on_images(folder):
    data = datamodule(folder / "float16", num_workers=2, validation=str(folder / "exact"))
    before = (model := restorer(folder)).conditioner.embed.weight.clone()
    trainer = fit(model, data, val_check_interval=1, check_val_every_n_epoch=None, limit_val_batches=2)
    assert trainer.global_step == 2 and torch.isfinite(trainer.callback_metrics["train/loss"])
    assert not torch.equal(before, model.conditioner.embed.weight)
    backbone = restorer(folder).backbone
    trainer = fit(backbone.requires_grad_(True), datamodule(folder / "float16"))
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


def test_another_autoencoder_is_refused_at_the_start_with_both_named(folder, tmp_path):
    said = f"the latents in {folder}/float16 are of the autoencoder {folder}/vae0 .*codec is {tmp_path}/vae5"
    with pytest.raises(ValueError, match=said):
        fit(restorer(tmp_path, seed=5), datamodule(folder / "float16"))
    with pytest.raises(ValueError, match="this backbone's codec is PixelCodec, which has no weights; give the backbone the VAECodec"):
        fit(tiny_restorer(), datamodule(folder / "float16"))


def test_the_same_autoencoder_elsewhere_is_the_same(folder, tmp_path):
    trainer = fit(restorer(tmp_path), datamodule(folder / "float16"))
    assert trainer.global_step == 2 and torch.isfinite(trainer.callback_metrics["train/loss"])


def test_pixels_have_no_posterior(folder):
    (batch,) = batches(datamodule(folder / "float16"), 1)
    with pytest.raises(ValueError, match=r"the batch holds latents of an autoencoder, but this backbone works on pixels \(PixelCodec\)"):
        tiny_backbone().flow_loss(batch, 0)


def test_images_that_were_kept_can_be_trained_on_instead(folder):
    (batch,) = batches(datamodule(folder / "exact", latents=False, crop=12, crops=2), 1)
    assert "lq_latent" not in batch and batch["lq"].shape == (4, 3, 12, 12)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop": 96}, r"data.crop is 96 and data.crops 1, but .*float16 holds latents of crops of 16 pixels.*Set data.crop: 16"),
        ({"crops": 2}, r"data.crop is 16 and data.crops 2, but"),
        ({"composed": {"18Lowlight_Blur_Noise": "01Blur"}}, r"18Lowlight_Blur_Noise need images to be composed, but .* latents"),
        ({"latents": False}, r"data.latents is false, but .*float16 holds latents without images"),
    ],
)
def test_what_latents_cannot_give_is_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        datamodule(folder / "float16", **options).train_dataloader()


def test_latents_without_images_are_no_validation_set(folder):
    with pytest.raises(ShardError, match=r"float16 holds latents without images, but evaluation needs images"):
        datamodule(folder / "exact", validation=str(folder / "float16")).setup("validate")
    assert len(datamodule(None, validation=str(folder / "exact")).val_dataloader()) == 18


def test_folders_that_make_no_batch_together_are_refused(folder, tmp_path):
    make_folder(tmp_path / "images", {"09Lowlight_Haze": [3]})
    make_latents(tmp_path, "more", crop=CROP)
    both = [str(folder / "float16"), str(tmp_path / "more")]
    data = RestorationDataModule(both, batch_size=4, crop=CROP, num_workers=0)
    assert {group for batch in batches(data, 6) for group in batch["group"]} == {"01Blur", "08Haze", "09Lowlight_Haze"}
    with pytest.raises(ShardError, match="images holds only images"):
        RestorationDataModule([both[0], str(tmp_path / "images")], num_workers=0).train_dataloader()
    make_latents(tmp_path, "smaller", crop=12)
    with pytest.raises(ShardError, match="cannot form one batch: .*latents of 16 pixels.*latents of 12 pixels"):
        RestorationDataModule([both[0], str(tmp_path / "smaller")], num_workers=0).train_dataloader()


@pytest.mark.parametrize("with_index_of", ["latents", "images"])
def test_shards_that_the_index_does_not_tell_of_end_the_training(tmp_path, with_index_of):
    """Images among latents and latents among images, under one index."""
    make_latents(tmp_path)
    folder = tmp_path / with_index_of
    other = tmp_path / {"latents": "images", "images": "latents"}[with_index_of]
    index = ShardIndex.load(folder)
    for suffix in (".tar", ".json"):
        shutil.copy(other / f"08Haze-000000{suffix}", folder)
    entry = Sidecar.load(folder / "08Haze-000000.tar").entry
    shards = tuple(entry if shard.name == entry.name else shard for shard in index.shards)
    ShardIndex(folder, shards, index.options).save()
    with pytest.raises(ShardError, match=r"08Haze/.* in .*08Haze-000000.tar holds .* but its folder's index.json lists .*Do not mix"):
        batches(datamodule(folder), 20)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"short", "are not whole safetensors"),
        (pack_latents(torch.zeros(8, 4, 4), torch.zeros(8, 4, 4)), r"are \[8, 4, 4\], but \[8, 8, 8\] in its folder's index.json"),
        (pack_latents(torch.zeros(8, 8, 8), torch.zeros(8, 8, 4)), r"hold gt torch.float32 \[8, 8, 4\], lq torch.float32 \[8, 8, 8\]"),
        (pack_latents(torch.zeros(8, 8, 8).int(), torch.zeros(8, 8, 8).int()), "hold gt torch.int32"),
    ],
)
def test_damaged_latents_are_bad_samples_that_are_named(tmp_path, data, message):
    index = make_latents(tmp_path)
    entry = index.shards[2]
    samples = []
    for number, sample in enumerate(read_shard(index.path(entry), samples=entry.samples)):
        content = data if number == 3 else sample.latents
        samples.append({"__key__": sample.key, "latents.safetensors": content, "json": json.loads(sample.json)})
    shards = (*index.shards[:2], write_shard(index.path(entry), entry.group, samples).entry)
    ShardIndex(index.folder, shards, index.options).save()
    with pytest.raises(ValueError, match=rf"The latents of {samples[3]['__key__']} in .*{message}"):
        batches(datamodule(index.folder), 10)
