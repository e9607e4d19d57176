"""The tar format, against webdataset's own reader."""

import hashlib
import json

import pytest
import webdataset

from datamodules.shards import Sidecar, read_shard, write_shard
from tests.datamodules.made_shards import made_sample

SAMPLES = [made_sample(f"01Blur/{number:04d}", "01Blur") for number in range(4)]


def test_webdataset_reads_back_every_byte(tmp_path):
    write_shard(tmp_path / "a.tar", "01Blur", SAMPLES)
    read = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in read] == [sample["__key__"] for sample in SAMPLES]
    for got, given in zip(read, SAMPLES, strict=True):
        assert (got["lq.png"], got["gt.png"], json.loads(got["json"])) == (given["lq.png"], given["gt.png"], given["json"])


def test_equal_samples_give_equal_bytes(tmp_path):
    for name in "ab":
        write_shard(tmp_path / f"{name}.tar", "01Blur", SAMPLES)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_the_sidecar_tells_count_size_checksum_and_spans(tmp_path):
    written = write_shard(tmp_path / "a.tar", "01Blur", SAMPLES)
    data = (tmp_path / "a.tar").read_bytes()
    assert Sidecar.load(tmp_path / "a.tar") == written
    assert (written.entry.samples, written.entry.bytes, written.entry.sha256) == (4, len(data), hashlib.sha256(data).hexdigest())
    for span in written.spans:
        header = data[span.offset : span.offset + 100].rstrip(b"\0").decode()
        assert header.startswith(f"{span.key}.")


def test_an_interrupted_shard_leaves_nothing(tmp_path):
    def interrupted():
        yield SAMPLES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "a.tar", "01Blur", interrupted())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change", [{"__key__": "01Blur/a.b"}, {"__key__": "02Haze/1"}, {"json": None}, {"gt.jpg": b"a second one"}], ids=str
)
def test_a_sample_outside_the_format_is_refused(tmp_path, change):
    with pytest.raises(ValueError, match=change.get("__key__", "01Blur/0000")):
        write_shard(tmp_path / "a.tar", "01Blur", [{**SAMPLES[0], **change}])


@pytest.mark.parametrize("first", range(5))
def test_reading_from_a_sample_on_equals_skipping(tmp_path, first):
    write_shard(tmp_path / "a.tar", "01Blur", SAMPLES)
    everything = list(read_shard(tmp_path / "a.tar", samples=4))
    assert list(read_shard(tmp_path / "a.tar", samples=4, first=first)) == everything[first:]
    assert list(read_shard(tmp_path / "a.tar", samples=4, first=first, limit=1)) == everything[first : first + 1]


@pytest.mark.parametrize("name", ["0001", "a name of more than a hundred characters " * 4, "Übung-ß", "deep/er"])
def test_the_bytes_are_those_of_webdataset_s_writer(tmp_path, name):
    samples = [made_sample(f"01Blur/{name}-{number}", "01Blur") for number in range(2)]
    write_shard(tmp_path / "a.tar", "01Blur", samples)
    with webdataset.TarWriter(str(tmp_path / "b.tar"), encoder=False, mtime=0) as tar:
        for sample in samples:
            tar.write({**sample, "json": json.dumps(sample["json"], sort_keys=True).encode()})
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize("suffix", ["bmp", "tif", "webp"])
def test_images_of_other_formats_keep_their_suffix(tmp_path, suffix):
    sample = {"__key__": "01Blur/1", f"lq.{suffix}": b"degraded", f"gt.{suffix}": b"clean", "json": {}}
    write_shard(tmp_path / "a.tar", "01Blur", [sample])
    (read,) = read_shard(tmp_path / "a.tar", samples=1)
    assert (read.lq, read.gt) == (b"degraded", b"clean")


def test_the_sidecar_keeps_what_was_rejected(tmp_path):
    rejects = [("0007", "its png data is damaged"), ("0009", "no reason")]
    write_shard(tmp_path / "a.tar", "01Blur", [], rejects)
    sidecar = Sidecar.load(tmp_path / "a.tar")
    assert sidecar.rejects == tuple(rejects) and sidecar.entry.samples == 0


def test_a_sidecar_without_rejects_is_read(tmp_path):
    written = write_shard(tmp_path / "a.tar", "01Blur", SAMPLES)
    content = json.loads((tmp_path / "a.json").read_text())
    del content["rejects"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert Sidecar.load(tmp_path / "a.tar") == written
