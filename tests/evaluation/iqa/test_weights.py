"""Weight files: where they belong, as pyiqa itself has it, and fetching them from a server of the test's own."""

import hashlib
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
from pyiqa.archs import clip_model, clipiqa_arch, dists_arch, inception, liqe_arch, lpips_arch, maniqa_arch, musiq_arch, niqe_arch
from pyiqa.utils import download_util

from mimdit import cli
from mimdit.commands import metrics as commands
from mimdit.evaluation.iqa import METRICS, WeightFile, weights
from mimdit.evaluation.iqa.weights import HubFile, of_clip


@pytest.mark.parametrize("name, url", [
    ("lpips", lpips_arch.default_model_urls["0.1_alex"]), ("lpips-vgg", lpips_arch.default_model_urls["0.1_vgg"]),
    ("dists", dists_arch.default_model_urls["url"]), ("niqe", niqe_arch.default_model_urls["niqe"]),
    ("niqe_matlab", niqe_arch.default_model_urls["niqe_matlab"]), ("liqe", liqe_arch.default_model_urls["koniq"]),
    ("liqe_mix", liqe_arch.default_model_urls["mix"]), ("musiq", musiq_arch.default_model_urls["koniq10k"]),
    ("clipiqa+", clipiqa_arch.default_model_urls["clipiqa+"]),
    ("clipiqa+_vitL14_512", clipiqa_arch.default_model_urls["clipiqa+_vitL14_512"]), ("maniqa", maniqa_arch.default_model_urls["koniq"]),
    ("maniqa-pipal", maniqa_arch.default_model_urls["pipal"]), ("fid", inception.FID_WEIGHTS_URL),
])  # fmt: skip
def test_the_files_are_those_that_pyiqa_loads(name, url):
    file = METRICS[name].files[-1]
    assert file.url == url and file.place.name == Path(urlparse(url).path).name


@pytest.mark.parametrize("model", weights._CLIP_SHA256)
def test_clips_archives_are_those_that_pyiqa_loads(model):
    assert of_clip(model).url == clip_model._MODELS[model] and of_clip(model).place.name == Path(clip_model._MODELS[model]).name


def test_the_cache_is_pyiqas():
    assert str(weights.pyiqa_cache()) == download_util.DEFAULT_CACHE_DIR == str(Path(torch.hub.get_dir(), "pyiqa"))


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def server(tmp_path):
    """The address of a server of a folder, and the folder."""
    (tmp_path / "served").mkdir()
    http = HTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", tmp_path / "served"
    http.shutdown()
    thread.join()
    http.server_close()


def test_fetching_puts_the_file_in_its_place(server, tmp_path, monkeypatch, capsys):
    address, folder = server
    (folder / "w.pth").write_bytes(b"weights")
    file = WeightFile(f"{address}/w.pth", tmp_path / "cache" / "w.pth", hashlib.sha256(b"weights").hexdigest()[:8])
    monkeypatch.setitem(METRICS, "niqe", METRICS["niqe"].__class__("niqe", "niqe", False, weights=(lambda: file,)))
    assert file.problem() == f"needs {address}/w.pth as {file.place}"
    commands.fetch(["niqe"])
    assert file.place.read_bytes() == b"weights" and file.problem() is None
    assert capsys.readouterr().out == f"fetched {file.place}\n"
    commands.fetch(["niqe"])
    assert "nothing to fetch" in capsys.readouterr().out


def test_what_comes_damaged_is_not_kept(server, tmp_path):
    address, folder = server
    (folder / "w.pth").write_bytes(b"half")
    file = WeightFile(f"{address}/w.pth", tmp_path / "cache" / "w.pth", hashlib.sha256(b"whole").hexdigest())
    with pytest.raises(ValueError, match="did not come as it should"):
        file.fetch()
    assert list(file.place.parent.iterdir()) == []


def test_without_a_way_the_place_is_told(tmp_path):
    with pytest.raises(OSError, match=f"cannot be reached .*copy the file to {tmp_path}/w.pth"):
        WeightFile("http://127.0.0.1:9/w.pth", tmp_path / "w.pth").fetch()


def test_an_archive_with_another_checksum_is_as_good_as_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    file = of_clip("RN50")
    file.place.parent.mkdir()
    file.place.write_bytes(b"cut short")
    assert "damaged file" in file.problem()


def test_list_tells_what_is_ready_and_where_the_rest_belongs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path))
    commands.list_metrics()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith(("psnr ", "niqe "))] == ["ready", "missing"]
    assert any(f"as {tmp_path}/niqe_modelparameters.mat" in line for line in lines)


def test_the_commands_take_names_as_words(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path))
    cli.main(["metrics", "list"])
    assert "niqe_modelparameters.mat" in capsys.readouterr().out
    cli.main(["metrics", "fetch", "psnr", "ssim"])
    assert "nothing to fetch" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["metrics", "fetch", "psnr", "nima"])
    assert "metric 'nima' is not known" in capsys.readouterr().err


def test_fetch_from_a_folder_copies_what_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mimdit.evaluation.iqa.weights.pyiqa_cache", lambda: tmp_path / "cache")
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "niqe_modelparameters.mat").write_bytes(b"model")
    cli.main(["metrics", "fetch", "niqe", "niqe_matlab", "niqe_fitted", "--from", str(tmp_path / "from")])
    printed = capsys.readouterr().out.splitlines()
    assert (tmp_path / "cache" / "niqe_modelparameters.mat").read_bytes() == b"model"
    assert printed[0] == f"copied {tmp_path / 'cache' / 'niqe_modelparameters.mat'}"
    assert printed[1].startswith(f"not in {tmp_path / 'from'}: needs https://") and "niqe_matlab_params.mat" in printed[1]
    assert printed[2].endswith("which mimdit metrics fit-niqe FOLDER writes")


def test_a_damaged_file_is_not_taken(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"half")
    file = WeightFile("http://127.0.0.1:9/w.pth", tmp_path / "place" / "w.pth", sha256="00")
    with pytest.raises(ValueError, match="w.pth is damaged or another file"):
        file.take(tmp_path)
    assert not file.place.exists()


def test_hub_repositories_are_taken_from_another_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    snapshot = tmp_path / "from" / "models--a--b" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert HubFile("a/b", "model.safetensors").take(tmp_path / "from") and not HubFile("a/c", "x").take(tmp_path / "from")
    assert (tmp_path / "hub" / "models--a--b" / "snapshots" / "0" / "model.safetensors").read_bytes() == b"weights"
