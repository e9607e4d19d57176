"""``mimdit shards latents``: encode images with an autoencoder once, instead of at every training step."""

from pathlib import Path

from datamodules.latents.encode import close_when_done, encode_shards
from datamodules.latents.plan import make_plan, settle
from datamodules.shards import ShardStore, open_index
from datamodules.shards.folder import REJECTED_NAME, WHOLE, Part
from datamodules.shards.latents import LatentRecord
from mimdit.backbone.codec import VAECodec
from mimdit.backbone.identity import identity
from mimdit.commands.shards import describe
from mimdit.core.devices import device_named


def latents(
    src: str,
    dst: str,
    *,
    vae: str,
    variant: str | None = None,
    revision: str | None = None,
    crop: int = 512,
    crops: int = 1,
    flip: bool = True,
    groups: list[str] | None = None,
    compose: dict[str, str] | None = None,
    keep_images: bool = False,
    dtype: str = "float16",
    compute: str = "float32",
    batch_size: int = 8,
    seed: int = 0,
    device: str | None = None,
    workers: int = 4,
    part: str | None = None,
    overwrite: bool = False,
) -> None:
    """Encode aligned crops of images in shards with an autoencoder, and write shards of its latents.

    Each shard of dst is made from one of src. Training reads dst like any folder of shards, without an autoencoder. Mean and log-variance
    of the posterior are stored, neither scaled nor sampled. Repeating the call continues an interrupted or killed one; the last part writes
    the index.

    Args:
        src: A finished folder of shards, or a glob of its tars.
        dst: Folder to write the shards of latents to.
        vae: Autoencoder: a diffusers folder (bare, or a pipeline with a vae sub-folder) or a hub id. It must be the codec of the training.
        variant: Variant of its weights, such as fp16.
        revision: Branch, tag or commit of a hub id.
        crop: Side of the square crops in pixels; smaller images are rejected.
        crops: Crops per pair; each depends on seed, key and its number.
        flip: If true, rotate by quarter turns and mirror the crops at random (8 ways); training cannot do that with latents.
        groups: Groups to encode, such as '[08Haze,13Rain_Haze]'; null is all.
        compose: Groups to compose from the clean images of others, such as '{18Lowlight_Blur_Noise: 02Blur_Noise}'.
        keep_images: If true, store the crops as PNG beside their latents; validation needs images.
        dtype: Float type of the stored latents, float16, bfloat16 or float32.
        compute: Float type of the autoencoder, float32 or bfloat16.
        batch_size: Crops encoded at once, each two images.
        seed: Seed of the crops.
        device: Device of the autoencoder, such as cuda:1; null is an accelerator if there is one, else cpu.
        workers: Processes that read and crop the images; 0 for this process.
        part: i/n writes only the i-th of n parts, for job arrays.
        overwrite: If true, remove other latents from dst.

    Raises:
        ValueError: An option is out of range, src is invalid, dst holds something else, or the disk is full.
    """
    chosen = WHOLE if part is None else Part.parse(part)
    if workers < 0:
        raise ValueError(f"workers is {workers}; it must be at least 0.")
    if part is not None and overwrite:
        raise ValueError(f"overwrite=true with part={part} would remove the shards of other parts. Remove {dst} first instead.")
    place, source = device_named(device or "auto"), open_index(src, ShardStore())
    codec = VAECodec(vae, variant=variant, revision=revision)
    how = {"crop": crop, "crops": crops, "flip": flip, "seed": seed, "dtype": dtype, "compute": compute, "batch_size": batch_size}
    record = LatentRecord(identity(codec), codec.channels, codec.downscale, **how, images=keep_images)
    plan = make_plan(Path(dst).resolve(), source, record, groups=groups, compose=compose)
    settle(plan, overwrite=overwrite)
    encode_shards(plan, codec, place, part=chosen, workers=workers)
    closed = close_when_done(plan)
    if isinstance(closed, int):
        print(f"Part {part} is done; {closed} of {len(plan.shards)} shards of other parts are missing.")
        return
    index, rejected = closed
    print(describe(index), f"rejected pairs: {len(rejected)}" + (f", see {plan.folder / REJECTED_NAME}" if rejected else ""), sep="\n")
