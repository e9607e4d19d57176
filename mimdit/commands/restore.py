"""``mimdit restore``: restore photographs in files and folders."""

import dataclasses
import io
import json
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from PIL import Image

from datamodules.images import (
    TooLargeImageError,
    UnreadableImageError,
    check_size,
    encode_photo,
    find_mask,
    find_shots,
    lost_in,
    read_photo,
    read_size,
    tagged,
)
from datamodules.images.finding import Job, plan
from datamodules.images.writing import QUALITY
from datamodules.shards.folder import WHOLE, Part
from mimdit.commands.forecast import Forecast, forecast, in_words
from mimdit.commands.progress_display import ProgressDisplay
from mimdit.commands.prompting import prompting_options
from mimdit.commands.shots import Shots
from mimdit.conditioner.moe_conditioner import Decisions
from mimdit.core.devices import device_named
from mimdit.core.files import replace_when_whole
from mimdit.distributed.loading import load_restorer
from mimdit.plots.gate_chart import gate_chart
from mimdit.restorer.blending import FEATHER, brightness, check_amount, feathered
from mimdit.restorer.caution import parse_caution
from mimdit.restorer.identification import as_text, probabilities_of
from mimdit.restorer.inference import Progress
from mimdit.restorer.pixels import restore_pixels
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sampling import SamplingSettings
from mimdit.restorer.steering import parse_steer
from mimdit.training.devices import emulates_bfloat16
from mimdit.weights import NAMED

_BYTES_PER_PIXEL = 2048
"""Working memory per pixel with the embedded default; benchmarks/restore.py prints it."""
_MEMORY_SHARE = 0.25
SMOOTH = 2
"""Neighbors on each side that the still pixels of a sequence's frame are averaged with."""
_SMALLEST_TILE, _LARGEST_TILE = 256, {"cpu": 1024}

EMBEDDED_NOTICE = (
    "The embedded weights were trained on synthetic degradations and can make real photographs worse: compare before you keep a result, or "
    "give --checkpoint with weights trained on your own pairs."
)


@dataclass(frozen=True)
class Blending:
    """Blending of results with their originals.

    Attributes:
        output: Folder of the results; a photograph's place in it is that of its mask in ``masks``.
        amount: Share of the restored image, 0..1.
        masks: A mask for all photographs, or a folder of masks; None for no mask.
        feather: Width of the masks' edge in pixels.

    Raises:
        ValueError: ``amount`` is outside 0..1, ``feather`` is negative, or ``masks`` does not exist or is a file that cannot be read.
    """

    output: Path
    amount: float = 1.0
    masks: Path | None = None
    feather: int = FEATHER

    def __post_init__(self) -> None:
        check_amount(self.amount)
        if self.feather < 0:
            raise ValueError(f"feather={self.feather} is negative; use 0 for a hard edge")
        if self.masks is not None and not self.masks.exists():
            raise ValueError(f"mask={self.masks} does not exist; give an image, or a folder of images named as the photographs")
        if self.masks is not None and not self.masks.is_dir():
            try:
                read_photo(self.masks)
            except (UnreadableImageError, TooLargeImageError, OSError) as error:
                raise ValueError(f"mask={self.masks} cannot be read: {error}; give another file") from error

    def shares(self, job: Job, pixels: np.ndarray) -> np.ndarray | None:
        """Return the shares ``[H, W]`` of a photograph's mask; None without masks.

        Raises:
            UnreadableImageError: There is no such mask, it cannot be read, or its size is not that of ``pixels``.
        """
        if self.masks is None:
            return None
        place = Path(os.path.relpath(job.target, self.output)) if job.target != self.output else Path(job.target.name)
        path = find_mask(self.masks, place.with_suffix(""))
        try:
            photo = read_photo(path)
        except (UnreadableImageError, TooLargeImageError, OSError) as error:
            raise UnreadableImageError(f"its mask {path} cannot be read: {error}") from error
        mask = brightness(photo.pixels, photo.alpha)
        if mask.shape != pixels.shape[:2]:
            (height, width), (rows, columns) = mask.shape, pixels.shape[:2]
            raise UnreadableImageError(f"its mask {path} has {width}x{height} pixels, the image {columns}x{rows}; make them equal")
        return feathered(mask, self.feather)


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
    caution: str | None = None,
    steer: str | None = None,
    only: str | None = None,
    prompting: Literal["none", "detected", "given"] | None = None,
    prompt: str | None = None,
    text_encoders: str | None = None,
    amount: float = 1.0,
    mask: str | None = None,
    feather: int | None = None,
    sequence: bool = False,
    smooth: int | None = None,
    explain: bool = False,
    tile: int | Literal["auto"] = "auto",
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
    compile: bool = False,
    same_format: bool = False,
    quality: int | None = None,
    tag: bool = False,
    overwrite: bool = False,
    part: str | None = None,
) -> None:
    """Restore photographs: files, and folders with their sub-folders.

    mimdit restore photos/ more.jpg restored/ writes PNG files of the same names into the same sub-folders. It reads JPEG, PNG, WebP, TIFF,
    BMP, AVIF, GIF (the first frame) and JPEG 2000, HEIC with pillow-heif, and JPEG XL with pillow-jxl-plugin. Metadata, color profiles, 16
    bits and gray are kept; the command lists, for each file, what its format cannot hold. Existing results are kept, so the same call
    continues an interrupted one. Images that cannot be read are listed at the end, and the exit code is 1.

    Args:
        inputs: Image files and folders.
        output: Folder to write to; for a single file it may be a file.
        checkpoint: Folder of mimdit export, or a .ckpt of mimdit fit; null is the default that comes with the package, paper the paper's
            set-up in the small, which samples from pure noise.
        steps: Sampler steps; 0 does not run the DiT: it returns the degraded image for start degraded, otherwise the estimate, or the
            degraded image without an estimate head. Null, here and below, keeps the checkpoint's own setting.
        sampler: euler, or heun, which evaluates the model twice per step.
        start: noise, degraded or estimate.
        sigma_start: Noise level to start from, above 0, at most 1: the higher, the less the result follows the start.
        guidance: Strength of the prompt; 1 is the prompt itself.
        seed: Seed of the noise, which is drawn for the whole image.
        color: Match the colors of the estimate: wavelet, below the details; adain, mean and standard deviation of each channel.
        caution: Probability, 0 to 1, from which a degradation is corrected in full; below, the correction shrinks, to none at 0.8 of it.
            For the tone only haze, rain and darkness count. 0 corrects everything in full. Or one for each degradation, such as
            noise=0.5,rain=0.7; those not named do not count.
        steer: Factors of the gates: channel=0 disables the channel group, haze=0 removes the measured effect of haze; separate several with
            commas. For a degradation the checkpoint's folder must hold measured gates (mimdit export --data).
        only: Degradations to remove, separated by commas, such as haze or haze,rain, from blur, noise, jpeg, haze, rain, raindrop and
            lowlight; the others stay. The checkpoint must identify degradations, as the default does.
        prompting: Text that the DiT gets, for weights with texts by degradation (mimdit prompts encode --by_atom): none, detected, the
            texts of the identified degradations, by probability, or given, which a prompt implies.
        prompt: Text such as "remove the haze, keep the grain". Without texts by degradation, as for the default weights, its words choose
            the degradations to remove, as only does; the command prints how the prompt is used.
        text_encoders: Folder or hub id of the SD3 or FLUX.1 pipeline, the one that encoded the cached texts, whose text encoders encode
            the prompt; null takes the nearest cached text.
        amount: Share of the restored image in the result, 0 to 1; the rest is the original, blended in linear light.
        mask: Image of the same size that is white where the photograph is restored; black pixels are kept. Or a folder of masks with the
            photographs' names.
        feather: Width of the mask's soft edge in pixels, on its white side; null is 8.
        sequence: Treat each folder as the frames of one shot, numbered in their names: gates and tone are decided once, from four frames,
            and still pixels are averaged.
        smooth: With sequence, frames on each side that a frame's still pixels are averaged with; 0 for none, null is 2.
        explain: Also write NAME.gates.png beside each result: the groups and experts in use, with their weights, and the probability of
            each degradation, which is also printed.
        tile: Process images above tile² pixels in pieces of about that area; auto chooses by the free memory.
        device: cpu, cuda, cuda:1, mps; auto takes a GPU where there is one.
        dtype: bfloat16 computes in mixed precision, which is faster on GPUs.
        compile: Compile the networks first (torch.compile): a minute or more at the start, and again for each new size of image.
        same_format: Write each image in its own format instead of PNG; a format that is only read, such as HEIC, becomes PNG.
        quality: Quality of JPEG, WebP and AVIF, 1 to 100; null is 95, for AVIF 90, and lossless for a lossless WebP.
        tag: Write version, checkpoint and settings into the XMP of each result.
        overwrite: Also restore images whose result exists.
        part: Restore only part i of n, i/n, such as 2/8, so that n processes or machines share the work. Each image is in exactly one part,
            by its name; with sequence, each folder is.
    """
    share = WHOLE if part is None else Part.parse(part)
    planned = plan(map(Path, inputs), Path(output), same_format=same_format)
    jobs = [job for job in planned if share.holds(os.path.relpath(job.target.parent if sequence else job.target, output))]
    _check_quality(quality, planned, same_format)  # not only the part's images, of which there may be none
    if explain:
        _check_charts(planned)
    blending = Blending(Path(output), amount, None if mask is None else Path(mask), FEATHER if feather is None else feather)
    _check_effects(feather=feather, mask=mask, smooth=smooth, sequence=sequence)
    smooth = SMOOTH if smooth is None else smooth
    frames = find_shots(jobs) if sequence else None
    todo = [job for job in jobs if overwrite or job.problem or not job.target.exists()]
    restorer = load_restorer(checkpoint).to(device_named(device))
    chosen = prompting_options(restorer, only, prompting, prompt, text_encoders)
    if sequence and chosen.get("only") is not None:
        raise ValueError(f"only={','.join(chosen['only'])} cannot be given with sequence, whose frames share one decision; leave one out")
    if caution is not None and chosen.get("only") is not None:
        only = ",".join(chosen["only"])
        raise ValueError(f"caution={caution} has no effect with only={only}, which goes by probabilities itself; leave one out")
    settings = restorer.sampling_settings(
        steps=steps, sampler=sampler, start=start, sigma_start=sigma_start, guidance=guidance, seed=seed, color=color,
        caution=None if caution is None else parse_caution(caution),
        steer=None if steer is None else parse_steer(steer), tile=tile_for_free_memory(restorer.device) if tile == "auto" else tile,
        **chosen,
    )  # fmt: skip
    if compile:
        restorer.compile_blocks()
    options = {"dtype": dtype, "amount": amount, "mask": mask, "feather": blending.feather, "sequence": sequence, "smooth": smooth}
    properties = _properties(checkpoint, settings, options) if tag else None
    shots = None if frames is None else Shots(restorer, frames, settings, smooth=smooth)
    with _precision(dtype, restorer.device.type):
        failed = restore_all(
            restorer, todo, settings, explain=explain, quality=quality, properties=properties, blending=blending, shots=shots
        )  # fmt: skip
    _report(len(todo) - len(failed), len(jobs) - len(todo), failed, output, part)
    if (checkpoint is None or checkpoint in NAMED) and len(todo) > len(failed):
        print(EMBEDDED_NOTICE, file=sys.stderr)
    if failed:
        sys.exit(1)


def restore_all(
    restorer: Restorer,
    jobs: list[Job],
    settings: SamplingSettings | None = None,
    *,
    explain: bool = False,
    quality: int | None = None,
    properties: Mapping[str, str] | None = None,
    blending: Blending | None = None,
    shots: Shots | None = None,
) -> list[tuple[Path, str]]:
    """Restore one photograph after the other and return the sources that failed, each with its reason.

    A result is written whole or not at all. The expected time is printed first, and progress is shown.

    Args:
        restorer: The restorer.
        jobs: Sources and targets.
        settings: How to restore; None for the restorer's own settings.
        explain: If true, also write the charts of the gates.
        quality: Quality of formats that lose, 1..100; None for the default.
        properties: Properties to write into the XMP of each result, by name.
        blending: Blending with the originals; None for the restored images themselves.
        shots: Shots that the jobs are frames of; None for single photographs.
    """
    options: dict[str, Any] = {"explain": explain, "quality": quality, "properties": properties, "blending": blending, "shots": shots}
    failed, sized = [], []
    for job in jobs:
        try:
            sized.append((job, _num_pixels(job)))
        except (UnreadableImageError, TooLargeImageError, OSError) as error:
            failed.append((job.source, reason_of(error)))
    total = sum(size for _, size in sized)
    cost = _forecast(restorer, [size for _, size in sized], settings) if sized else None
    with ProgressDisplay(len(sized), total, cost) as display:
        for job, size in sized:
            display.begin(job.source, size)
            problem = None
            try:
                for remark in restore_one(restorer, job, settings, progress=display.advance, **options):
                    display.remark(f"{job.source}: {remark}")
            except (UnreadableImageError, OSError, MemoryError, torch.OutOfMemoryError) as error:
                problem = reason_of(error)
                failed.append((job.source, problem))
            display.end(failed=problem is not None)
    return failed


def restore_one(
    restorer: Restorer,
    job: Job,
    settings: SamplingSettings | None,
    *,
    explain: bool,
    progress: Progress,
    quality: int | None = None,
    properties: Mapping[str, str] | None = None,
    blending: Blending | None = None,
    shots: Shots | None = None,
) -> tuple[str, ...]:
    """Read, restore and write one photograph, with its `gate_chart` if ``explain`` is true.

    Returns:
        Remarks on anything not kept, after the probabilities of the degradations if ``explain`` is true.
    """
    photo = read_photo(job.source)
    if properties:
        photo = tagged(photo, properties)
    seen: list[Decisions] = []
    options: dict[str, Any] = {} if shots is None else {"decisions": shots.decisions(job), "original": photo.pixels}
    if blending is not None:
        options |= {"amount": blending.amount, "mask": blending.shares(job, photo.pixels)}
    source = photo.pixels if shots is None else shots.averaged(job, photo.pixels)
    pixels = restore_pixels(restorer, source, settings, on_decisions=seen.append, progress=progress, **options)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    said: tuple[str, ...] = ()
    if explain:
        probabilities = probabilities_of(seen[0])
        said = () if probabilities is None else (as_text(probabilities),)
        chart = gate_chart(seen[0].routing, title=job.source.name, footer=" ".join(said))
        _write_chart(chart, _chart_of(job.target))
    with replace_when_whole(job.target) as path:
        path.write_bytes(encode_photo(photo, pixels, job.kind, quality=quality))
    return (*said, *photo.remarks, *lost_in(photo, job.kind))


def tile_for_free_memory(device: torch.device) -> int:
    """Return the side in pixels, a multiple of 64, of the square whose work takes a quarter of the free memory of ``device``.

    At least 256; on a CPU at most 1024, above which nothing gets faster.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    side = int((free * _MEMORY_SHARE / _BYTES_PER_PIXEL) ** 0.5) // 64 * 64
    return max(_SMALLEST_TILE, min(side, _LARGEST_TILE.get(device.type, side)))


def _precision(dtype: str, device: str) -> AbstractContextManager:
    """Return the context of a precision on a kind of device; warn where a CPU emulates it."""
    if dtype != "bfloat16":
        return nullcontext()
    if device == "cpu" and emulates_bfloat16():
        print("this CPU has no bf16 instructions: --dtype=float32 is several times faster", file=sys.stderr)
    return torch.autocast(device, torch.bfloat16)


def _forecast(restorer: Restorer, sizes: list[int], settings: SamplingSettings | None) -> Forecast | None:
    """Measure the cost of images of ``sizes`` pixels and print the expected time; None if there is not enough memory."""
    megapixels = sum(sizes) / 1e6
    in_pieces = settings is not None and settings.tile is not None and max(sizes) > settings.tile**2
    try:
        cost = forecast(restorer, megapixels, settings, in_pieces=in_pieces)
    except (MemoryError, torch.OutOfMemoryError):
        return None  # each image will report it itself
    count, time = f"{len(sizes)} image{'s' if len(sizes) != 1 else ''}", in_words(cost.pace * megapixels)
    print(f"{count}, {megapixels:.1f} megapixels: about {time} ({cost.pace:.1f} s a megapixel)", file=sys.stderr)
    return cost


def _write_chart(chart: Image.Image, target: Path) -> None:
    out = io.BytesIO()
    chart.save(out, format="PNG")
    with replace_when_whole(target) as path:
        path.write_bytes(out.getvalue())


def _num_pixels(job: Job) -> int:
    if job.problem:
        raise UnreadableImageError(job.problem)
    width, height = read_size(job.source)
    check_size(width, height, job.kind)
    return width * height


def _check_quality(quality: int | None, jobs: list[Job], same_format: bool) -> None:
    if quality is None:
        return
    if not 1 <= quality <= 100:
        raise ValueError(f"quality={quality} is out of range; give 1 to 100")
    if not same_format and not any(job.kind.name in QUALITY for job in jobs):
        raise ValueError(f"quality={quality} has no effect on {jobs[0].kind.name}; give --same_format, or an output file such as a.jpg")


def _check_effects(*, feather: int | None, mask: str | None, smooth: int | None, sequence: bool) -> None:
    if feather is not None and mask is None:
        raise ValueError(f"feather={feather} has no effect without a mask; give --mask, or leave it out")
    if smooth is not None and not sequence:
        raise ValueError(f"smooth={smooth} has no effect without --sequence; give that too, or leave it out")


def _check_charts(jobs: list[Job]) -> None:
    """Refuse charts that would replace an image or its result."""
    taken = {path.resolve() for job in jobs for path in (job.source, job.target)}
    for job in jobs:
        if (chart := _chart_of(job.target)).resolve() in taken:
            raise ValueError(f"the chart of {job.source} would replace the image {chart}; rename that image, or leave out --explain")


def _chart_of(target: Path) -> Path:
    return target.with_name(f"{target.stem}.gates.png")


def _properties(checkpoint: str | None, settings: SamplingSettings, options: dict[str, object]) -> dict[str, str]:
    own = dataclasses.asdict(settings) | options
    return {"version": version("mimdit"), "checkpoint": checkpoint or "embedded", "settings": json.dumps(own)}


def reason_of(error: BaseException) -> str:
    """Return why an image could not be read or restored, for the list of those that failed."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "there is not enough memory for it; give a smaller --tile"
    return str(error)


def _report(done: int, kept: int, failed: list[tuple[Path, str]], output: str, part: str | None) -> None:
    print(f"{'' if part is None else f'part {part}: '}restored {done}, already there {kept}, failed {len(failed)}: {output}")
    for source, reason in failed:
        print(f"  {source}: {reason}", file=sys.stderr)
