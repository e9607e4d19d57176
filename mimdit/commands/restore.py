"""``mimdit restore``: photographs in files and folders, restored."""

import io
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from tqdm import tqdm

from datamodules.images import UnreadableImageError, encode_photo, lost_in, read_photo, read_size
from datamodules.images.finding import Job, plan
from mimdit.commands.forecast import in_words, seconds_per_megapixel
from mimdit.commands.loading import load_restorer
from mimdit.commands.tile_size import tile_for_free_memory
from mimdit.core.files import replace_when_whole
from mimdit.flow import SAMPLERS
from mimdit.plots.gate_chart import gate_chart
from mimdit.restorer.pixels import restore_pixels
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.steering import parse_wishes
from mimdit.routing.routing import Routing
from mimdit.training.precision import emulates_bfloat16

_BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} megapixels [{elapsed}, {remaining} left]"


def restore(
    inputs: list[str],
    output: str,
    *,
    checkpoint: str | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    start: str | None = None,
    sigma_start: float | None = None,
    guidance: float | None = None,
    seed: int | None = None,
    color: Literal["none", "wavelet", "adain"] = "none",
    steer: str | None = None,
    explain: bool = False,
    tile: int | Literal["auto"] = "auto",
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
    compile: bool = False,
    same_format: bool = False,
    overwrite: bool = False,
) -> None:
    """Restore photographs: files, and folders with all their sub-folders.

    mimdit restore photos/ more.jpg restored/ writes PNG files of the same names into the same sub-folders. JPEG, PNG, WebP, TIFF, BMP and
    AVIF are read, HEIC with pillow-heif. Metadata and colour profiles are carried over, 16 bits stay 16 bits, grey stays grey. Results
    that are there already are kept: a call that was interrupted is continued by the same call. What cannot be read is named at the end,
    and the exit code is 1.

    Args:
        inputs: Image files and folders.
        output: Folder to write to; for a single file it may be a file.
        checkpoint: Folder that mimdit export wrote, or a .ckpt of mimdit fit; null is the default that comes with the package.
        steps: Sampler steps; 0 is the start itself. Null, here and below, is what the checkpoint says.
        sampler: euler, or heun, which asks twice a step.
        start: noise, degraded or estimate.
        sigma_start: Noise level to start from, above 0, at most 1: the higher, the freer.
        guidance: Strength of the prompt; 1 is the prompt itself.
        seed: Seed of the noise, which is drawn for the whole image.
        color: Gives the result the colours of the estimate: wavelet, below the details; adain, mean and spread of each channel.
        steer: What to tell the gates, such as haze=0 (there is no haze), channel=2 (that group counts twice) or both with a comma. Of a
            degradation the checkpoint's folder must hold what its gates were measured to do (mimdit export --data).
        explain: Also write NAME.gates.png beside each result: which groups and experts it was given to, and with which weight.
        tile: Images of more than so many pixels squared are worked on in pieces of about that area; auto goes by the free memory.
        device: cpu, cuda, cuda:1, mps; auto takes a GPU where there is one.
        dtype: bfloat16 computes in mixed precision, which is faster on GPUs.
        compile: Compile the networks first (torch.compile): a minute or more at the start, and again for each new size of image.
        same_format: Write each image in its own format instead of PNG.
        overwrite: Restore also what is there already.
    """
    jobs = plan(map(Path, inputs), Path(output), same_format=same_format)
    todo = [job for job in jobs if overwrite or job.problem or not job.target.exists()]
    restorer = load_restorer(checkpoint).to(device_named(device))
    if sampler is not None:
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler {sampler!r} is unknown; choose {' or '.join(SAMPLERS)}")
        restorer.flow.sampler = sampler
    settings = {"steps": steps, "start": start, "sigma_start": sigma_start, "guidance": guidance, "seed": seed}
    settings |= {"color": color, "steer": None if steer is None else parse_wishes(steer)}
    restorer.check_settings(**settings)
    settings["tile"] = tile_for_free_memory(restorer.device) if tile == "auto" else tile
    kind = restorer.device.type
    if dtype == "bfloat16" and kind == "cpu" and emulates_bfloat16():
        print("this CPU has no bf16 instructions: --dtype=float32 is several times faster", file=sys.stderr)
    if compile:
        restorer.compile_blocks()
    with torch.autocast(kind, torch.bfloat16) if dtype == "bfloat16" else nullcontext():
        failed = restore_all(restorer, todo, explain=explain, **settings)
    _report(len(todo) - len(failed), len(jobs) - len(todo), failed, output)
    if failed:
        sys.exit(1)


def restore_all(restorer: Restorer, jobs: list[Job], *, explain: bool = False, **settings: object) -> list[tuple[Path, str]]:
    """Do ``jobs`` one after the other, each result whole or not there; return what could not be done, and why.

    How long it will take is said before, and how far it is while it runs. ``settings`` are those of `Restorer.restore`.
    """
    failed, sized = [], []
    for job in jobs:
        try:
            sized.append((job, _pixels(job)))
        except (UnreadableImageError, OSError) as error:
            failed.append((job.source, _why(error)))
    total = sum(size for _, size in sized)
    if sized:
        _tell_forecast(restorer, len(sized), total / 1e6, settings)
    end = 0
    with tqdm(total=total, unit_scale=1e-6, bar_format=_BAR, dynamic_ncols=True) as bar:
        for job, size in sized:
            bar.set_description(job.source.name[:32], refresh=True)
            end += size

            def advance(share: float, size: int = size, end: int = end) -> None:
                bar.update(min(round(share * size), end - bar.n))  # whole pixels: shares need not add up to just 1

            try:
                for remark in restore_one(restorer, job, explain, progress=advance, **settings):
                    tqdm.write(f"{job.source}: {remark}", file=sys.stderr)
            except (UnreadableImageError, OSError, MemoryError, torch.OutOfMemoryError) as error:
                failed.append((job.source, _why(error)))
            bar.update(end - bar.n)
    return failed


def _tell_forecast(restorer: Restorer, images: int, megapixels: float, settings: dict) -> None:
    try:
        pace = seconds_per_megapixel(restorer, megapixels, **settings)
    except (MemoryError, torch.OutOfMemoryError):
        return  # each image will say so itself
    print(f"{images} images, {megapixels:.1f} megapixels: about {in_words(pace * megapixels)} ({pace:.1f} s a megapixel)", file=sys.stderr)


def restore_one(restorer: Restorer, job: Job, explain: bool = False, **settings: object) -> tuple[str, ...]:
    """Read, restore and write one photograph, with its `gate_chart` if so asked; return what could not be kept of it."""
    photo = read_photo(job.source)
    seen: list[Routing] = []
    pixels = restore_pixels(restorer, photo.pixels, explain=seen.append, **settings)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    if explain:
        _write_chart(gate_chart(seen[0], title=job.source.name), job.target.with_name(f"{job.target.stem}.gates.png"))
    with replace_when_whole(job.target) as path:
        path.write_bytes(encode_photo(photo, pixels, job.kind))
    return (*photo.remarks, *lost_in(photo, job.kind))


def _write_chart(chart: Image.Image, target: Path) -> None:
    out = io.BytesIO()
    chart.save(out, format="PNG")
    with replace_when_whole(target) as path:
        path.write_bytes(out.getvalue())


def _pixels(job: Job) -> int:
    if job.problem:
        raise UnreadableImageError(job.problem)
    width, height = read_size(job.source)
    return width * height


def _why(error: BaseException) -> str:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "there is not enough memory for it; give a smaller --tile"
    return str(error)


def device_named(name: str) -> torch.device:
    """A device by its name, ``auto`` for an accelerator where there is one; ValueError where it is unknown."""
    if name != "auto":
        try:
            return torch.device(name)
        except RuntimeError as error:
            raise ValueError(f"device {name!r} is unknown; use cpu, cuda, cuda:1, mps or auto") from error
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def _report(done: int, kept: int, failed: list[tuple[Path, str]], output: str) -> None:
    print(f"restored {done}, already there {kept}, failed {len(failed)}: {output}")
    for source, why in failed:
        print(f"  {source}: {why}", file=sys.stderr)
