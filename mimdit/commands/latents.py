"""``mimdit shards latents``: what an autoencoder makes of the images, computed once instead of at every step."""

from pathlib import Path

import torch

from datamodules.conversion.finalize import REJECTED_NAME
from datamodules.conversion.run import WHOLE, Part
from datamodules.latents.encode import close_when_done, encode_shards
from datamodules.latents.plan import make_plan, settle
from datamodules.latents.record import LatentRecord
from datamodules.shards import ShardStore, open_index
from mimdit.backbone.codec import VAECodec
from mimdit.backbone.identity import identity
from mimdit.commands.shards import describe


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
    """Encode aligned crops of shards' images by an autoencoder, and write shards of its latents.

    Each shard of dst is made of one of src. Training reads dst as any folder of shards, and no autoencoder runs in it. Mean and
    log-variance of the posterior are stored, neither scaled nor sampled. A call that was interrupted, or killed, is continued by the same
    call; the part that ends last writes the index.

    Args:
        src: A finished folder of shards, or a glob of its tars.
        dst: Folder to write the shards of latents to.
        vae: Autoencoder: a diffusers folder (bare, or a pipeline with a vae sub-folder) or a hub id. It must be the codec of the training.
        variant: Which set of its weights to read, such as fp16.
        revision: Branch, tag or commit of a hub id.
        crop: Side of the square crops in pixels; images smaller than that are rejected.
        crops: Crops of each pair, drawn by seed, key and number.
        flip: Turn and mirror the crops at random (8 ways); training cannot do that with latents.
        groups: Groups to take, such as '[08Haze,13Rain_Haze]'; null is all.
        compose: Groups to compose from the clean images of others, such as '{18Lowlight_Blur_Noise: 02Blur_Noise}'.
        keep_images: Store the crops as PNG beside their latents; validation needs images.
        dtype: Float type to store, float16, bfloat16 or float32.
        compute: Float type that the autoencoder works in, float32 or bfloat16.
        batch_size: Crops that are encoded at once; twice as many images.
        seed: Seed of the crops.
        device: Where the autoencoder works, such as cuda:1; null is cuda where there is one, else cpu.
        workers: Processes that read and cut the images; 0 does it in this one.
        part: i/n writes only the i-th of n parts, for job arrays.
        overwrite: Remove what dst holds of other latents.

    Raises:
        ValueError: An option is out of its range, src is not what it should be, dst holds something else, or the disk is full.
    """
    chosen = WHOLE if part is None else Part.parse(part)
    if workers < 0:
        raise ValueError(f"workers is {workers}; it must be at least 0.")
    if part is not None and overwrite:
        raise ValueError(f"overwrite=true with part={part} would remove what other parts have written. Remove {dst} first instead.")
    place = _device(device)
    source = open_index(src, ShardStore())
    codec = VAECodec(vae, variant=variant, revision=revision)
    how = {"crop": crop, "crops": crops, "flip": flip, "seed": seed, "dtype": dtype, "compute": compute, "batch_size": batch_size}
    record = LatentRecord(identity(codec), codec.channels, codec.downscale, **how, images=keep_images)
    plan = make_plan(Path(dst).resolve(), source, record, groups=groups, compose=compose)
    settle(plan, overwrite=overwrite)
    encode_shards(plan, codec, place, part=chosen, workers=workers)
    closed = close_when_done(plan)
    if isinstance(closed, int):
        print(f"Part {part} is done; {closed} of {len(plan.shards)} shards are still to come from the other parts.")
        return
    index, rejected = closed
    print(describe(index))
    print(f"rejected pairs: {len(rejected)}" + (f", see {plan.folder / REJECTED_NAME}" if rejected else ""))


def _device(name: str | None) -> torch.device:
    """The device of that name, which must be there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used ({str(error).splitlines()[0]}); leave it out, or give cpu or cuda:N") from error
