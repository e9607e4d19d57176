"""``mimdit votes collect`` and ``report``: the page's functions, a real browser, and the command line."""

import asyncio
import io
import json
import re
import subprocess
import sys
import urllib.request
from importlib import metadata, util
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mimdit import cli
from mimdit.commands import votes as command
from mimdit.commands import voting_page
from mimdit.commands.ballot import Ballot
from mimdit.commands.paired_images import digests, pair_images
from mimdit.evaluation.votes import Study, Vote, append_vote, begin_votes, read_votes
from tests.commands.browser import CHROMIUM, Page
from tests.commands.made_pairs import run_of, write_images

GRADIO = int(metadata.version("gradio").partition(".")[0]) if util.find_spec("gradio") else 0
needs_gradio = pytest.mark.skipif(GRADIO < 6, reason="there is no gradio 6: pip install '.[demo]'")
NAMES = [f"08Haze/scene{place}" for place in range(3)] + ["05Noise/scene3"]


@pytest.fixture
def folders(tmp_path):
    return write_images(tmp_path / "runs", NAMES)


@pytest.fixture
def ballot(folders, tmp_path):
    zebra, quagga, given = folders
    pairs = pair_images(zebra, quagga, given)
    return Ballot(pairs, tmp_path / "votes.jsonl", Study(str(zebra), str(quagga), *digests(pairs), len(pairs)))


def functions(blocks) -> dict:
    """Return the page's functions by the ids of what triggers them, and ``load``."""
    found = {}
    for function in blocks.fns.values():
        for component, event in function.targets:
            name = "load" if event == "load" else blocks.blocks[component].elem_id
            found[name] = function
    return found


@needs_gradio
def test_clicks_become_votes_and_nothing_that_is_sent_names_a_run(ballot, monkeypatch):
    monkeypatch.setattr(voting_page, "SECONDS_TO_LOOK", 0)
    found = functions(voting_page.page(ballot, with_degraded=True))
    values = found["start"].fn(" Ann ")
    expected = []
    for answer in ("left", "right", "neither", "left"):
        shown, _, *images, voting, entrance = values
        assert voting.visible and not entrance.visible
        left, middle, right = (run_of(np.asarray(image)) for image in images)
        assert middle == "input" and {left, right} == {"zebra", "quagga"}
        for image, component in zip(images, found["start"].outputs[2:5]):
            sent = str(component.postprocess(image).model_dump())
            assert image.info == {} and not re.search(r"zebra|quagga|scene|Haze", sent) and sent.count("image.png") == 2
        expected.append((shown.image, {"left": left, "right": right, "neither": "tie"}[answer]))
        values = found[f"vote_{answer}"].fn(shown)
    assert values[0] is None and "4 of 4 done, Ann. Thank you" in values[1] and not values[-2].visible
    runs = {"a": "zebra", "b": "quagga", "tie": "tie"}
    assert [(vote.image, runs[vote.choice]) for vote in read_votes(ballot.path).votes] == expected


@needs_gradio
def test_the_page_itself_names_no_run_no_image_and_no_file(ballot):
    sent = json.dumps(voting_page.page(ballot, voter="Ann", with_degraded=True).get_config_file(), default=str)
    assert "left is better" in sent and not re.search(r"zebra|quagga|scene|Haze|votes\.jsonl", sent)


@needs_gradio
def test_a_second_click_of_a_double_click_and_a_stale_window_cast_no_vote(ballot, monkeypatch):
    found = functions(voting_page.page(ballot, voter="Ann"))
    shown, *_ = found["load"].fn()
    assert [value["__type__"] for value in found["vote_left"].fn(shown)] == ["update"] * 7 and read_votes(ballot.path).votes == []
    monkeypatch.setattr(voting_page, "SECONDS_TO_LOOK", 0)
    following = found["vote_left"].fn(shown)[0]
    assert found["vote_right"].fn(shown)[0].image == following.image != shown.image
    assert len(read_votes(ballot.path).votes) == 1


@needs_gradio
def test_errors_on_the_page_do_not_name_the_run(ballot, folders, monkeypatch, capsys):
    import gradio

    monkeypatch.setattr(voting_page, "SECONDS_TO_LOOK", 0)
    found = functions(voting_page.page(ballot))
    shown = found["start"].fn("Ann")[0]
    for name in NAMES:
        (folders[0] / f"{name}.png").write_bytes(b"damaged")
    with pytest.raises(gradio.Error, match="the terminal names it") as caught:
        found["start"].fn("Ann")
    assert "zebra" not in str(caught.value) and shown.image in capsys.readouterr().err
    with pytest.raises(gradio.Error, match="a voter's name has 1 to 60"):
        found["start"].fn("")
    ballot.path.unlink()
    with pytest.raises(gradio.Error, match="The vote could not be written"):
        found["vote_left"].fn(shown)


@needs_gradio
def test_collect_names_what_does_not_fit(folders, tmp_path, capsys):
    zebra, quagga, _ = map(str, folders)
    votes = ["--votes", str(tmp_path / "votes.jsonl")]
    (folders[0] / "only.png").write_bytes((folders[0] / f"{NAMES[0]}.png").read_bytes())
    for words, message in (
        ([zebra, quagga], f"only in {zebra}: only"),
        ([zebra, f"again={zebra}"], "hold equal images; give the results"),
        ([zebra, zebra], "two runs are called zebra"),
    ):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["votes", "collect", *words, *votes])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "votes.jsonl").exists()


@needs_gradio
def test_collect_serves_the_page_and_continues(folders, tmp_path, monkeypatch, capsys):
    served = []
    monkeypatch.setattr(command, "serve", lambda blocks, **place: served.append(SimpleNamespace(blocks=blocks, **place)))
    monkeypatch.setattr(voting_page, "SECONDS_TO_LOOK", 0)
    zebra, quagga, given = map(str, folders)
    words = ["votes", "collect", f"Z={zebra}", quagga, "--votes", str(tmp_path / "new/votes.jsonl"), "--voter", "Ann", "--port", "0"]
    cli.main([*words, "--degraded", given])
    assert capsys.readouterr().out.endswith("votes.jsonl, 0 of Ann there already\n")
    assert (served[0].host, served[0].port) == ("127.0.0.1", 0)
    found = functions(served[0].blocks)
    first = found["vote_left"].fn(found["load"].fn()[0])[0]
    cli.main(words)
    assert "4 pairs, " in (said := capsys.readouterr().out) and "1 of Ann there already" in said
    shown, progress, _, middle, *_ = functions(served[1].blocks)["load"].fn()
    assert shown.image == first.image and progress == "1 of 4 done" and middle is None
    assert (read_votes(tmp_path / "new/votes.jsonl").study.a, read_votes(tmp_path / "new/votes.jsonl").study.b) == ("Z", folders[1].name)


@needs_gradio
def test_collect_refuses_two_runs_of_one_name(folders, tmp_path):
    one, two = (f"run={folder}" for folder in folders[:2])
    with pytest.raises(ValueError, match="two runs are called run; name them"):
        command.collect(one, two, votes=str(tmp_path / "votes.jsonl"))


def test_report_prints_a_table_or_json_and_warns_of_a_truncated_line(tmp_path, capsys):
    path = tmp_path / "votes.jsonl"
    begin_votes(path, Study("one", "two", "1", "2", 10))
    for place in range(10):
        append_vote(path, Vote(f"haze/{place}", "a" if place < 9 else "b", "a", "Ann", "2026-01-01T00:00:00+00:00"))
    with open(path, "a") as file:
        file.write('{"image": "haze/')
    cli.main(["votes", "report", str(path)])
    said = capsys.readouterr()
    assert "| all votes | 9 | 1 | 0 | 90.0 % [59.6, 98.2] | 0.0215 |" in said.out and "warning: the last line of" in said.err
    cli.main(["votes", "report", str(path), "--json"])
    content = json.loads(capsys.readouterr().out)
    assert (content["a"], content["b"], content["preferences"][1]["name"]) == ("one", "two", "haze")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["votes", "report", str(tmp_path / "none.jsonl")])
    assert "none.jsonl" in capsys.readouterr().err


@pytest.fixture
def address(folders, tmp_path):
    """Of a page that a process of its own serves."""
    zebra, quagga, given = map(str, folders)
    command = [sys.executable, "-m", "mimdit", "votes", "collect", zebra, quagga, "--degraded", given, "--port", "0"]
    with subprocess.Popen([*command, "--votes", str(tmp_path / "votes.jsonl")], stdout=subprocess.PIPE, text=True) as process:
        try:
            process.stdout.readline()  # what there is to vote on
            yield re.search(r"open (http://\S+?)/? ", process.stdout.readline())[1]
        finally:
            process.kill()


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to show the page in")
@needs_gradio
def test_clicks_in_a_browser_land_in_the_file_and_the_page_stays_blind(address, tmp_path):
    answers = ("left", "right", "neither", "left")
    images = "[...document.querySelectorAll('#left img, #degraded img, #right img')]"

    async def visit() -> tuple[list[list[str]], list[str]]:
        sources, texts = [], []
        async with Page(tmp_path) as page:
            await page.ask("Page.enable")
            await page.ask("Page.navigate", url=address)
            await page.until("document.querySelector('#voter textarea, #voter input') && document.querySelector('#start')")
            await page.value(
                "const field = document.querySelector('#voter textarea, #voter input'); field.value = 'Ann';"
                "field.dispatchEvent(new Event('input')); document.querySelector('#start').click()"
            )
            for place, answer in enumerate(answers):
                await page.until(f"document.querySelector('#progress').innerText.includes('{place} of 4 done')")
                await page.until(f"{images}.length == 3 && {images}.every(image => image.complete && image.naturalWidth)")
                await asyncio.sleep(0.5)
                sources.append(await page.value(f"{images}.map(image => image.src)"))
                texts.append(await page.value("document.documentElement.outerHTML"))
                (tmp_path / "screenshot.png").write_bytes(await page.screenshot())
                await page.value(f"document.querySelector('#vote_{answer}').click()")
            await page.until("document.querySelector('#progress').innerText.includes('Thank you')")
            texts.append(await page.value("performance.getEntriesByType('resource').map(each => each.name).join(' ')"))
        return sources, texts

    sources, texts = asyncio.run(visit())
    votes = read_votes(tmp_path / "votes.jsonl").votes
    runs = {"a": "zebra", "b": "quagga", "tie": "tie"}
    for vote, answer, shown in zip(votes, answers, sources, strict=True):
        left, middle, right = (run_of(np.asarray(fetched(source))) for source in shown)
        assert middle == "input" and runs[vote.left] == left
        assert runs[vote.choice] == {"left": left, "right": right, "neither": "tie"}[answer]
    assert {vote.image for vote in votes} == {*NAMES} and {vote.voter for vote in votes} == {"Ann"}
    assert not re.search(r"zebra|quagga|scene\d|08Haze|votes\.jsonl", " ".join(texts))


def fetched(address: str) -> Image.Image:
    with urllib.request.urlopen(address) as answer:
        return Image.open(io.BytesIO(answer.read())).convert("RGB")
