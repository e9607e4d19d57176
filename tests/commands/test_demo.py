"""``mimdit demo`` in a real browser."""

import asyncio
import io
import re
import subprocess
import sys
import urllib.request
from importlib import metadata, util

import numpy as np
import pytest
from PIL import Image

from datamodules.degradations.compose import degrade
from datamodules.synthetic.photographs import photograph_crop
from mimdit import cli
from mimdit.commands.demo import page
from mimdit.restorer.blending import feathered
from mimdit.restorer.identification import identify_pixels
from mimdit.restorer.pixels import restore_pixels
from mimdit.restorer.restorer import Restorer
from tests.commands.browser import CHROMIUM, Page
from tests.tiny_models import tiny_restorer

GRADIO = int(metadata.version("gradio").partition(".")[0]) if util.find_spec("gradio") else 0


@pytest.mark.skipif(GRADIO >= 6, reason="gradio is installed")
def test_without_gradio_the_error_names_the_extra(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["demo", "--port", "0"])
    assert left.value.code == 2 and "mimdit demo needs gradio" in capsys.readouterr().err


@pytest.fixture
def address():
    """Of a demo that runs in a process of its own."""
    command = [sys.executable, "-m", "mimdit", "demo", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield re.search(r"open (http://\S+?)/? ", process.stdout.readline())[1]
        finally:
            process.terminate()


def fetched(address: str) -> np.ndarray:
    with urllib.request.urlopen(address) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"))


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to show the page in")
@pytest.mark.skipif(GRADIO < 6, reason="there is no gradio 6: pip install '.[demo]'")
def test_a_photograph_that_is_uploaded_comes_back_restored_with_its_gates(address, tmp_path):
    degraded = degrade(photograph_crop("astronaut", 256).astype(np.float32) / 255, "14Lowlight", severity=0.7, seed=1)
    degraded = (degraded * 255).round().astype(np.uint8)
    Image.fromarray(degraded).save(tmp_path / "photograph.png")

    async def visit() -> tuple[list[str], bytes]:
        async with Page(tmp_path) as page:
            await page.ask("Page.enable")
            await page.ask("Page.navigate", url=address)
            await page.until("document.querySelector('input[type=file]') && document.querySelector('#restore')")
            await page.upload(tmp_path / "photograph.png")
            await page.until("[...document.images].some(image => image.src.includes('photograph'))")
            await page.value("document.querySelector('#restore').click()")
            await page.until("document.querySelectorAll('#compared img').length == 2 && document.querySelector('#gates img')")
            await page.until("[...document.images].every(image => image.complete)")
            await asyncio.sleep(1)  # it fades in
            sources = await page.value("[...document.querySelectorAll('#compared img, #gates img')].map(image => image.src)")
            return sources, await page.screenshot()

    (before, after, chart), shot = asyncio.run(visit())
    (tmp_path / "screenshot.png").write_bytes(shot)
    assert (fetched(before) == degraded).all()
    assert (fetched(after) == restore_pixels(Restorer.from_pretrained(), degraded)).all()
    assert fetched(chart).shape[1] > 300
    assert Image.open(io.BytesIO(shot)).size[0] == 1280


@pytest.mark.skipif(GRADIO < 6, reason="there is no gradio 6: pip install '.[demo]'")
def test_the_amount_and_the_mask_of_the_page_blend_the_result():
    import gradio

    restorer = tiny_restorer(flow={"start": "degraded", "sigma_start": 0.5}).eval()
    settings = restorer.sampling_settings()
    (click,) = page(restorer, settings).fns.values()
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    mask = np.zeros((24, 32), np.uint8)
    mask[:, 16:] = 255
    options = [settings.steps, settings.start, "", 0.5, Image.fromarray(mask)]
    (before, after), _, named = click.fn(Image.fromarray(image), *options)
    expected = restore_pixels(restorer, image, settings, amount=0.5, mask=feathered(mask))
    assert (np.asarray(before) == image).all() and (np.asarray(after) == expected).all() and (expected != image).any()
    assert named is None and not click.outputs[-1].visible  # the tiny restorer does not identify
    assert [type(component) for component in click.inputs[-2:]] == [gradio.Slider, gradio.Image]
    with pytest.raises(gradio.Error, match="24x32 pixels and the image 32x24"):
        click.fn(Image.fromarray(image), *options[:-1], Image.fromarray(mask.T))


@pytest.mark.parametrize(("steps", "end"), [(2, 28), (28, 28), (50, 50)])
@pytest.mark.skipif(GRADIO < 6, reason="there is no gradio 6: pip install '.[demo]'")
def test_the_slider_reaches_the_steps_of_the_weights(steps, end):
    restorer = tiny_restorer(flow={"steps": steps}).eval()
    (click,) = page(restorer, restorer.sampling_settings()).fns.values()
    (slider,) = (component for component in click.inputs if component.label == "sampler steps")
    assert (slider.value, slider.maximum) == (steps, end)


@pytest.mark.skipif(GRADIO < 6, reason="there is no gradio 6: pip install '.[demo]'")
def test_the_page_shows_the_probabilities_of_the_degradations():
    restorer = tiny_restorer(conditioner={"identify": True}, flow={"start": "degraded", "sigma_start": 0.5}).eval()
    settings = restorer.sampling_settings()
    (click,) = page(restorer, settings).fns.values()
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    *_, named = click.fn(Image.fromarray(image), settings.steps, settings.start, "")
    assert named == identify_pixels(restorer, image) and click.outputs[-1].visible
