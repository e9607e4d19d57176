"""``mimdit demo``: restore photographs on a local web page."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from mimdit.commands.restore import tile_for_free_memory
from mimdit.commands.web_page import import_gradio, serve
from mimdit.conditioner.moe_conditioner import Decisions
from mimdit.core.devices import device_named
from mimdit.distributed.loading import load_restorer
from mimdit.flow import STARTS
from mimdit.plots.gate_chart import gate_chart
from mimdit.restorer.blending import check_blending, feathered
from mimdit.restorer.identification import probabilities_of
from mimdit.restorer.image_types import to_mask
from mimdit.restorer.pixels import restore_pixels
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sampling import SamplingSettings
from mimdit.restorer.steering import parse_steer

if TYPE_CHECKING:
    import gradio

_ABOUT = "One model for haze, blur, noise, JPEG blocks, rain, raindrops and darkness. Everything stays on this machine. " + (
    "The embedded weights were trained on synthetic degradations and can make real photographs worse."
)
_STEER_HELP = "Factors of the gates: channel=0 disables the channel group, se=2 doubles the weight of se; empty changes nothing."

_STEPS = 28
"""End of the slider of the sampler steps, unless the weights take more."""


def demo(
    *,
    checkpoint: str | None = None,
    device: str = "auto",
    tile: int | Literal["auto"] = "auto",
    host: str = "127.0.0.1",
    port: int = 7860,
) -> None:
    """Serve a local web page: upload a photograph, compare before and after, and see which experts restored it.

    Needs gradio: pip install '.[demo]'. Stop it with Ctrl-C.

    Args:
        checkpoint: Folder of mimdit export, or a .ckpt of mimdit fit; null is the default that comes with the package.
        device: cpu, cuda, cuda:1, mps; auto takes a GPU where there is one.
        tile: Process images above tile² pixels in pieces of about that area; auto chooses by the free memory.
        host: Address to listen on; 0.0.0.0 also accepts other machines.
        port: Port to listen on; 0 for any free one.
    """
    restorer = load_restorer(checkpoint).to(device_named(device))
    settings = restorer.sampling_settings(tile=tile_for_free_memory(restorer.device) if tile == "auto" else tile)
    serve(page(restorer, settings), host=host, port=port)


def page(restorer: Restorer, settings: SamplingSettings) -> gradio.Blocks:
    """Return the page around a restorer, whose controls begin with ``settings``.

    Raises:
        ValueError: gradio is missing or too old.
    """
    gradio = import_gradio("demo")
    one_at_a_time, progress_bar = threading.Lock(), gradio.Progress()  # gradio looks for it among the defaults

    def restored(
        image: Image.Image | None,
        steps: float,
        start: str,
        steer: str | None,
        amount: float = 1.0,
        mask: Image.Image | None = None,
        progress: gradio.Progress = progress_bar,
    ) -> tuple[tuple[Image.Image, Image.Image], Image.Image, dict[str, float] | None]:
        if image is None:
            raise gradio.Error("Upload a photograph first.", print_exception=False)
        seen: list[Decisions] = []
        done = 0.0

        def advance(fraction: float) -> None:
            nonlocal done
            done += fraction
            progress(min(1.0, done))

        try:
            factors = parse_steer(steer) if steer else None
            chosen = restorer.sampling_settings(settings, steps=int(steps), start=start, steer=factors)
            pixels = np.asarray(image)
            blended = {"amount": amount, "mask": None if mask is None else feathered(to_mask(mask))}
            check_blending(pixels, **blended)
        except ValueError as error:
            raise gradio.Error(str(error), print_exception=False) from error
        with one_at_a_time:
            result = restore_pixels(restorer, pixels, chosen, on_decisions=seen.append, progress=advance, **blended)
        return (image, Image.fromarray(result)), gate_chart(seen[0].routing), probabilities_of(seen[0])

    with gradio.Blocks(title="MiM-DiT", analytics_enabled=False) as blocks:
        gradio.Markdown(f"# MiM-DiT: restore a photograph\n{_ABOUT}")
        with gradio.Row():
            with gradio.Column(scale=1):
                given = gradio.Image(
                    label="photograph", type="pil", image_mode="RGB", format="png", sources=["upload", "clipboard"], height=300
                )
                amount = gradio.Slider(0, 1, value=1, step=0.05, label="amount", info="0 keeps the photograph, 1 is the restored one.")
                button = gradio.Button("Restore", variant="primary", elem_id="restore")
                with gradio.Accordion("Settings", open=False):
                    starts = [start for start in STARTS if start != "estimate" or restorer.conditioner.estimate_head is not None]
                    steps = gradio.Slider(0, max(_STEPS, settings.steps), value=settings.steps, step=1, label="sampler steps")
                    start = gradio.Radio(starts, value=settings.start, label="start from")
                    steer = gradio.Textbox(label="steer", info=_STEER_HELP)
                    mask = gradio.Image(label="mask: white is restored", type="pil", image_mode="L", sources=["upload"], height=150)
            with gradio.Column(scale=2):
                shown = {"type": "pil", "format": "png", "interactive": False, "buttons": ["download", "fullscreen"]}
                compared = gradio.ImageSlider(label="before | after", max_height=420, elem_id="compared", **shown)
                chart = gradio.Image(label="experts in use, % of each block's sum", elem_id="gates", **shown)
                identifies = restorer.conditioner.identification is not None
                named = gradio.Label(label="degradations, each with its probability", elem_id="degradations", visible=identifies)
        button.click(restored, [given, steps, start, steer, amount, mask], [compared, chart, named])
    return blocks
