"""``mimdit restore``, by its command line and with the embedded default."""

import html
import json
import os
import re
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import TqdmWarning

from mimdit.commands import restore as command
from mimdit.restorer.identification import as_text, identify_pixels
from mimdit.restorer.pixels import restore_pixels
from tests.commands.made_restorers import Identity, run, use
from tests.datamodules.images.made_images import SRGB, deep, encoded, exif, to_png
from tests.tiny_models import tiny_restorer


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """The command with a restorer that changes nothing, in a folder of its own."""
    made = Identity()
    use(made, monkeypatch, tmp_path)
    return made


def put(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)


def test_files_and_folders_come_back_with_names_and_sub_folders(stub, tmp_path):
    put(tmp_path / "in", a__jpg=encoded("JPEG"))
    put(tmp_path / "in/sub", b__png=encoded("PNG"))
    put(tmp_path, c__webp=encoded("WEBP", "RGBA", lossless=True, exact=True))
    assert run("--steps", "0", "in", "c.webp", "out") == 0
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"in/a.png", "in/sub/b.png", "c.png"}
    for source, result in (("in/a.jpg", "in/a.png"), ("in/sub/b.png", "in/sub/b.png"), ("c.webp", "c.png")):
        assert (np.asarray(Image.open(tmp_path / source)) == np.asarray(Image.open(tmp_path / "out" / result))).all()


@pytest.mark.parametrize("words", [["-x.png", "out"], ["--", "-x.png", "out"]])
def test_a_name_may_begin_with_a_dash(stub, tmp_path, words):
    put(tmp_path, **{"-x__png": encoded("PNG")})
    assert run("--steps", "0", *words) == 0 and os.listdir("out") == ["-x.png"]


def test_gray_sixteen_bits_alpha_profile_and_metadata_come_through(stub, tmp_path):
    put(tmp_path / "in", gray__jpg=encoded("JPEG", "L", icc_profile=SRGB, exif=exif(6).tobytes()), deep__tif=deep(".tif", 4))
    assert run("in", "out", "--same-format") == 0
    gray, tiff = Image.open("out/gray.jpg"), command.read_photo(tmp_path / "out/deep.tif")
    assert gray.mode == "L" and gray.size == (24, 40) and gray.info["icc_profile"] == SRGB and gray.getexif()[0x0112] == 1
    original = command.read_photo(tmp_path / "in/deep.tif")
    assert tiff.pixels.dtype == np.uint16 and (tiff.pixels == original.pixels).all() and (tiff.alpha == original.alpha).all()


def test_what_is_done_is_kept_and_what_failed_is_named_and_counted(stub, tmp_path, capsys):
    put(tmp_path / "in", a__png=encoded("PNG"), b__png=encoded("PNG")[:-20], c__nef=b"II*\0")
    (tmp_path / "in/d.jpg").mkdir()
    assert run("in", "out") == 1
    said = capsys.readouterr()
    assert "restored 1, already there 0, failed 3" in said.out
    assert (
        "in/b.png: its PNG data is damaged" in said.err
        and "in/d.jpg: it is a folder" in said.err
        and "c.nef: it is a camera's RAW" in said.err
    )
    assert os.listdir("out") == ["a.png"]
    before = os.stat("out/a.png").st_mtime_ns
    assert run("in", "out") == 1 and os.stat("out/a.png").st_mtime_ns == before
    assert "restored 0, already there 1, failed 3" in capsys.readouterr().out
    assert run("in/a.png", "out", "--overwrite") == 0 and os.stat("out/a.png").st_mtime_ns > before


def test_a_forecast_comes_first_and_progress_advances_within_an_image(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "in", a__png=encoded("PNG"))
    model, shares = tiny_restorer(conditioner={"estimate": True}, tile=16, overlap=8).eval(), []
    monkeypatch.setattr(command, "load_restorer", lambda checkpoint: model)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    whole = restore_pixels(model, command.read_photo(tmp_path / "in/a.png").pixels, tile=16, progress=shares.append)
    assert len(shares) > 10 and sum(shares) == pytest.approx(1)
    assert run("in", "out", "--tile", "16", "--explain") == 0
    said = capsys.readouterr().err
    forecast, bar = said.split("s a megapixel)")
    assert "can make real photographs worse" in said
    assert re.match(r"1 image, 0\.0 megapixels: about 1 s \([\d.]+ $", forecast) and "100%" in bar
    assert (command.read_photo(tmp_path / "out/a.png").pixels == whole).all()
    assert sorted(os.listdir("out")) == ["a.gates.png", "a.png"] and Image.open("out/a.gates.png").width > 300


def test_explain_prints_the_probabilities_of_the_degradations_and_adds_them_to_the_chart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "in", a__png=encoded("PNG"))
    heights = []
    for identify in (False, True):
        model = tiny_restorer(conditioner={"estimate": True, "identify": identify}, overlap=8).eval()
        monkeypatch.setattr(command, "load_restorer", lambda checkpoint, model=model: model)
        assert run("in", "out", "--explain", "--overwrite") == 0
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("in/a.png: ")]
        expected = as_text(identify_pixels(model, command.read_photo(tmp_path / "in/a.png").pixels)) if identify else ""
        assert (f"in/a.png: {expected}" in said) is identify and any(" %, " in line for line in said) is identify
        heights.append(Image.open("out/a.gates.png").height)
    assert heights[1] > heights[0]


def test_a_chart_that_would_replace_a_result_is_refused(stub, tmp_path, capsys):
    put(tmp_path / "in", a__png=encoded("PNG"), a__gates__png=encoded("PNG"))
    assert run("in", "out", "--explain") == 2 and not (tmp_path / "out").exists()
    assert "the chart of in/a.png would replace the image out/a.gates.png; rename that image" in capsys.readouterr().err
    assert run("in", "out") == 0


def test_without_a_terminal_each_image_has_one_line(stub, tmp_path, capsys):
    put(tmp_path / "in", a__png=encoded("PNG"), b__png=encoded("PNG"), c__png=encoded("PNG")[:-20])
    assert run("in", "out") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if " of 3: " in line]
    assert [re.sub(r"\d+ s", "N s", line) for line in lines] == [
        "1 of 3: in/a.png: 0.0 megapixels in N s, about N s left",
        "2 of 3: in/b.png: 0.0 megapixels in N s, about N s left",
        "3 of 3: in/c.png: failed",
    ]


def test_each_image_is_in_one_part_whatever_other_images_there_are(stub, tmp_path, capsys):
    put(tmp_path / "in", **{f"{number}__png": encoded("PNG") for number in range(12)})
    put(tmp_path / "in/sub", **{f"{number}__jpg": encoded("JPEG") for number in range(12)})
    put(tmp_path / "few", **{f"{number}__png": encoded("PNG") for number in range(3)})
    for number in (1, 2, 3):
        assert run("in", f"out{number}", "--part", f"{number}/3") == 0
        assert run("few", f"few{number}", f"--part={number}/3") == 0
    parts = [[path.relative_to(f"out{number}") for path in Path(f"out{number}").rglob("*.png")] for number in (1, 2, 3)]
    assert sorted(sum(parts, [])) == sorted(path.relative_to("in").with_suffix(".png") for path in Path("in").rglob("*.*"))
    assert min(map(len, parts)) > 0
    for number, part in zip((1, 2, 3), parts, strict=True):
        assert {path.name for path in Path(f"few{number}").glob("*.png")} == {f"{n}.png" for n in range(3)} & set(map(str, part))
    tallies = re.findall(r"^part (\d)/3: restored (\d+), already there 0, failed 0: out", capsys.readouterr().out, re.MULTILINE)
    assert [int(count) for _, count in tallies] == [len(part) for part in parts]
    for number in (1, 2, 3):
        assert run("in", "whole", "--part", f"{number}/3") == 0
    assert run("in", "whole") == 0 and "restored 0, already there 24, failed 0: whole" in capsys.readouterr().out


def test_progress_never_runs_past_the_end(stub, tmp_path, monkeypatch):
    put(tmp_path / "in", a__png=encoded("PNG"))

    def in_pieces(restorer, job, settings, *, progress, **options):
        for _ in range(3):
            time.sleep(0.15)  # the bar is drawn every 0.1 s
            progress(0.34)
        return ()

    monkeypatch.setattr(command, "restore_one", in_pieces)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TqdmWarning)
        assert run("in", "out") == 0


def test_color_steering_and_start_reach_the_restorer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "in", a__png=encoded("PNG"))
    model = tiny_restorer(conditioner={"estimate": True}).eval()
    monkeypatch.setattr(command, "load_restorer", lambda checkpoint: model)
    settings = {"color": "wavelet", "start": "degraded", "sigma_start": 0.4, "steps": 3, "seed": 5}
    options = [f"--{name}={value}" for name, value in settings.items()]
    assert run("in", "out", *options, "--steer", "channel=0,swin=2") == 0
    expected = restore_pixels(model, command.read_photo(tmp_path / "in/a.png").pixels, steer={"channel": 0, "swin": 2}, **settings)
    assert (command.read_photo(tmp_path / "out/a.png").pixels == expected).all()


@pytest.mark.parametrize(("text", "caution"), [("0.4", 0.4), ("rain=0.7,noise=0.9", {"rain": 0.7, "noise": 0.9}), ("0", 0.0)])
def test_caution_reaches_the_restorer(tmp_path, monkeypatch, text, caution):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "in", a__png=encoded("PNG"))
    seen = []
    monkeypatch.setattr(command, "load_restorer", lambda checkpoint: tiny_restorer(conditioner={"identify": True}).eval())
    monkeypatch.setattr(command, "restore_pixels", lambda restorer, pixels, settings, **_: seen.append(settings.caution) or pixels)
    assert run("in", "out", "--caution", text, "--steps=1") == 0
    assert seen == [caution]


def test_a_result_that_could_not_be_finished_is_not_there(stub, tmp_path, monkeypatch):
    put(tmp_path / "in", a__png=encoded("PNG"))

    def full(*_, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "encode_photo", full)
    assert run("in", "out") == 1 and os.listdir("out") == []


def test_an_image_that_needs_too_much_memory_costs_no_other(stub, tmp_path, capsys):
    put(tmp_path / "in", a__png=encoded("PNG"), b__png=encoded("PNG", "L"))

    def restore(images, settings, **options):
        if (images[0, 0] != images[0, 1]).any():
            raise torch.OutOfMemoryError("no")
        return images

    stub.restore = restore
    assert run("in", "out") == 1 and os.listdir("out") == ["b.png"]
    assert "in/a.png: there is not enough memory for it; give a smaller --tile" in capsys.readouterr().err


def test_limits_of_the_format_are_checked_before_the_work_and_named(stub, tmp_path, capsys):
    wide = np.zeros((1, 16_384, 3), np.uint8)
    put(tmp_path / "in", a__png=to_png(wide), b__png=encoded("PNG", exif=long_exif()))
    stub.restore = None  # must not be called
    assert run("in/a.png", "a.webp") == 1
    assert "in/a.png: it has 16384 x 1 pixels, and WEBP at most 16,383 on a side" in capsys.readouterr().err
    del stub.restore
    assert run("in/b.png", "b.jpg") == 0
    said = capsys.readouterr().err
    assert "in/b.png: its EXIF of 70," in said and "does not fit into JPEG" in said and Image.open("b.jpg").size == (40, 24)


def long_exif():
    made = exif()
    made[0x010E] = "x" * 70_000
    return made.tobytes()


def test_every_image_of_a_folder_is_restored_or_named(stub, tmp_path, capsys):
    put(tmp_path / "in", a__gif=encoded("GIF"), b__jp2=encoded("JPEG2000"), IMG__v2=encoded("PNG"))
    put(tmp_path / "in", c__psd=b"8BPS\0\1" + bytes(20), d__jpg=b"text")
    assert run("in", "out") == 1
    said = capsys.readouterr()
    assert "restored 3, already there 0, failed 2" in said.out
    assert "c.psd: it is a Photoshop file" in said.err and "d.jpg: it begins" in said.err
    assert sorted(os.listdir("out")) == ["IMG.v2.png", "a.png", "b.png"]


def test_text_of_a_png_comes_into_the_result_and_what_does_not_is_named(stub, tmp_path, capsys):
    info = PngInfo()
    info.add_text("parameters", "a castle")
    put(tmp_path / "in", a__png=encoded("PNG", pnginfo=info))
    assert run("in", "out") == 0 and Image.open("out/a.png").text == {"parameters": "a castle"}
    assert run("in/a.png", "a.webp") == 0 and "in/a.png: WEBP does not hold its text (parameters)" in capsys.readouterr().err


@pytest.mark.parametrize(("output", "options"), [("out", ["--same-format"]), ("out.jpg", [])], ids=["folder", "file"])
def test_quality_is_given_to_a_part_without_images(stub, tmp_path, capsys, output, options):
    put(tmp_path, a__jpg=encoded("JPEG"))
    assert [run("a.jpg", output, *options, "--quality=80", f"--part={part}/2") for part in (1, 2)] == [0, 0]
    assert sorted(re.findall(r"restored (\d)", capsys.readouterr().out)) == ["0", "1"]


def test_quality_without_effect_is_refused_by_every_part(stub, tmp_path, capsys):
    put(tmp_path, a__jpg=encoded("JPEG"))
    assert [run("a.jpg", "out", "--quality=80", f"--part={part}/2") for part in (1, 2)] == [2, 2]
    assert capsys.readouterr().err.count("quality=80 has no effect on PNG; give --same_format") == 2


def test_quality_is_that_of_the_results(stub, tmp_path):
    put(tmp_path / "in", a__jpg=encoded("JPEG"), b__webp=encoded("WEBP"), c__png=encoded("PNG"))
    for quality in (5, 95):
        assert run("in", f"out{quality}", "--same-format", "--quality", str(quality)) == 0
    assert run("in", "out", "--same-format") == 0
    for name in ("a.jpg", "b.webp"):
        assert os.path.getsize(f"out5/{name}") < os.path.getsize(f"out95/{name}")
        assert Path("out95", name).read_bytes() == Path("out", name).read_bytes()
    assert Image.open("out5/a.jpg").quantization[0][0] > 100 > 5 > Image.open("out95/a.jpg").quantization[0][0]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.avif"])
def test_the_settings_are_in_the_result_if_asked_for(stub, tmp_path, name):
    put(tmp_path, a__png=encoded("PNG"))
    for tag in ((), ("--tag",)):
        assert run("a.png", f"out/{name}", "--seed", "7", "--overwrite", *tag) == 0
        packet = command.read_photo(tmp_path / "out" / name).xmp
        assert (packet is not None) == bool(tag)
    settings = json.loads(html.unescape(re.search(r"<mimdit:settings>(.*)</mimdit:settings>", packet.decode())[1]))
    assert settings["seed"] == 7 and settings["sampler"] == "euler" and settings["dtype"] == "float32"
    assert b"<mimdit:checkpoint>embedded<" in packet and f"<mimdit:version>{version('mimdit')}<".encode() in packet


def test_a_sequence_has_one_decision_a_folder_whatever_is_already_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, seen = np.random.default_rng(0), []
    for shot, brightness in (("a", 60), ("b", 220)):
        for frame in range(1, 4):
            pixels = np.clip(brightness + rng.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
            put(tmp_path / "in" / shot, **{f"{frame}__png": to_png(pixels)})

    def restoring(restorer, pixels, settings, *, decisions, **options):
        seen.append(decisions)
        return restore_pixels(restorer, pixels, settings, decisions=decisions, **options)

    monkeypatch.setattr(command, "restore_pixels", restoring)
    assert run("in", "out", "--sequence") == 0
    assert len(seen) == 6 and all(other is seen[index // 3 * 3] for index, other in enumerate(seen)) and seen[0] is not seen[3]
    whole = (tmp_path / "out" / "a" / "3.png").read_bytes()
    (tmp_path / "out" / "a" / "3.png").unlink()
    assert run("in", "out", "--sequence") == 0 and (tmp_path / "out" / "a" / "3.png").read_bytes() == whole
    assert [run("in", f"part{part}", "--sequence", f"--part={part}/2") for part in (1, 2)] == [0, 0]
    parts = [{path.parent.name for path in tmp_path.glob(f"part{part}/*/*.png")} for part in (1, 2)]
    assert set.union(*parts) == {"a", "b"} and not parts[0] & parts[1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("in", "out", "--quality", "0", "--same-format"), "quality=0 is out of range; give 1 to 100"),
        (("in", "out", "--quality", "101"), "quality=101 is out of range; give 1 to 100"),
        (("in", "out", "--quality", "80"), "quality=80 has no effect on PNG; give --same_format"),
        (("gone", "out"), "gone does not exist"),
        (("in", "in"), "give an output folder apart"),
        (("in", "out", "--device", "toaster"), "device 'toaster' cannot be used here"),
        (("in", "out", "--sampler", "dice"), "sampler 'dice' is unknown"),
        (("in", "out", "--steps=-1"), "steps=-1 is negative"),
        (("in", "out", "--start", "middle"), "start 'middle' is unknown"),
        (("in", "out", "--steer", "fog=0"), "steer 'fog' is neither a group nor a degradation"),
        (("in", "out", "--steer", "fog"), "steer 'fog' cannot be read"),
        (("in", "out", "--caution", "fog=0.5"), "caution 'fog': there is no such degradation"),
        (("in", "out", "--caution", "much"), "caution 'much' cannot be read"),
        (("in", "out", "--only", "hase"), "only 'hase': there is no such degradation; choose from blur, noise, jpeg, haze"),
        (("in", "out", "--only", "haze", "--checkpoint", "paper"), "only haze: these weights do not identify degradations"),
        (("in", "out", "--prompt", "make it nice"), "names no degradation; name some of blur, noise"),
        (("in", "out", "--prompt", "haze", "--only", "rain"), "both choose the degradations to remove"),
        (("in", "out", "--prompt", "haze", "--prompting", "detected"), "prompting=detected takes no prompt"),
        (("in", "out", "--prompting", "detected"), "prompting: detected needs texts by degradation"),
        (("in", "out", "--text_encoders", "gone"), "text_encoders=gone encode a prompt; give one"),
        (("in", "out", "--only", "haze", "--sequence"), "only=haze cannot be given with sequence"),
        (("in", "out", "--smooth=2"), "smooth=2 has no effect without --sequence"),
        (("in", "out", "--feather=8"), "feather=8 has no effect without a mask"),
        (("in", "out", "--caution=0.5", "--only", "haze"), "caution=0.5 has no effect with only=haze"),
        (("in", "out", "--caution=0.5", "--prompt", "haze"), "caution=0.5 has no effect with only=haze"),
        (("in", "out", "--part", "9/8"), "part is '9/8'; give i/n with 1 <= i <= n"),
        (("in", "out", "--amount=2"), "amount=2.0 is outside 0..1"),
        (("in", "out", "--feather=-1"), "feather=-1 is negative"),
        (("in", "out", "--mask=gone.png"), "mask=gone.png does not exist"),
        (("in", "out", "--checkpoint", "gone.ckpt"), "checkpoint=gone.ckpt does not exist; give a .ckpt"),
    ],
)
def test_a_users_mistake_is_an_error_before_anything_is_written(tmp_path, monkeypatch, capsys, args, words):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "in", a__png=encoded("PNG"))
    assert run(*args) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("free", "side"), [(100 << 20, 256), (2 << 30, 512), (64 << 30, 1024)])
def test_the_tile_follows_the_free_memory(monkeypatch, free, side):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))
    assert command.tile_for_free_memory(torch.device("cpu")) == side
