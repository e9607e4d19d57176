"""RealIR-Bench in folders and in tables, as the `datasets` library writes them."""

import io
import pickle

import datasets
import numpy as np
import pytest
from PIL import Image

from datamodules.test_sets import RealIRBench
from tests.datamodules.test_sets.made_trees import check_pixels, make, pairs_of, pixels

NAMES = {
    "blur": "blur", "compression": "jpeg", "flare": "flare", "Moiré": "moire", "haze": "haze", "low-light": "lowlight", "noise": "noise",
    "rain": "rain", "reflection": "reflection",
}  # fmt: skip
"""The nine degradations as users may write them, with the names of the groups."""


def png(name: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(name)).save(file, format="PNG")
    return file.getvalue()


def table(**columns) -> datasets.Dataset:
    """A row for each degradation, whose image is that of its name."""
    images = [{"bytes": png(name), "path": f"{name}.png"} for name in NAMES]
    rows = {"image": images, "task": [*NAMES], "prompt": [f"Please repair picture {i}" for i in range(len(NAMES))]} | columns
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def test_folders_are_groups(tmp_path):
    make(tmp_path, *(f"{name}/1.jpg" for name in NAMES), "notes/read.png")
    contents = RealIRBench(str(tmp_path)).contents
    assert sorted(pairs_of(contents)) == sorted((group, "1") for group in NAMES.values())
    (rain,) = (entry for entry in contents.entries if entry.group == "rain")
    check_pixels(rain, "rain/1.jpg", None)
    assert rain.degradations == ("rain",)


def test_folders_of_one_degradation_share_a_group_and_keep_their_names(tmp_path):
    make(tmp_path, "motion_blur/1.png", "defocus_blur/1.png", "rain/1.png")
    assert pairs_of(RealIRBench(str(tmp_path)).contents) == [("blur", "defocus_blur/1"), ("blur", "motion_blur/1"), ("rain", "1")]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_tables_are_read_by_what_their_columns_hold(tmp_path, kind):
    made = table()
    if kind == "parquet":
        made.to_parquet(tmp_path / "default" / "train" / "0000.parquet")
    else:
        made.save_to_disk(tmp_path / "data")
    bench = RealIRBench(str(tmp_path))
    assert pairs_of(bench.contents) == [(group, f"{row:04d}-{name}") for row, (name, group) in enumerate(NAMES.items())]
    for entry, name in zip(bench.contents.entries, NAMES):
        degraded, truth = pickle.loads(pickle.dumps(entry.load))()
        assert np.array_equal(degraded, pixels(name)) and truth is None
    assert bench.protocol()["differs_from_published"] == "9 images, not 464"
    assert "differs_from_published" not in RealIRBench(str(tmp_path), groups=["rain"]).protocol()


def test_labels_are_read_by_their_names(tmp_path):
    names = sorted(NAMES)
    labels = datasets.ClassLabel(names=names)
    table(task=[names.index(name) for name in NAMES]).cast_column("task", labels).to_parquet(tmp_path / "0.parquet")
    assert [entry.group for entry in RealIRBench(str(tmp_path), degradation_column="task").contents.entries] == [*NAMES.values()]


def test_columns_of_another_kind_and_broken_files_are_named(tmp_path):
    table(number=[*range(9)], raw=[b"x"] * 9).to_parquet(tmp_path / "0.parquet")
    with pytest.raises(ValueError, match="row 0: degradation_column=number names no degradation"):
        _ = RealIRBench(str(tmp_path), degradation_column="number").contents
    with pytest.raises(ValueError, match="image_column=raw is binary; name one of images"):
        _ = RealIRBench(str(tmp_path), image_column="raw").contents
    (tmp_path / "0.parquet").unlink()
    (tmp_path / "1.arrow").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"1.arrow cannot be read as a table \("):
        _ = RealIRBench(str(tmp_path)).contents


def test_tables_without_pyarrow_name_the_extra_and_folders_do_not_need_it(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.test_sets.realir.importlib.util.find_spec", lambda name: None)
    make(tmp_path, "rain/1.png")
    assert pairs_of(RealIRBench(str(tmp_path)).contents) == [("rain", "1")]
    (tmp_path / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"0\.parquet is a table and needs pyarrow, .*pip install 'mimdit\[tables\]'"):
        _ = RealIRBench(str(tmp_path)).contents


def test_columns_that_cannot_be_told_are_named(tmp_path):
    table(kind=[*NAMES]).to_parquet(tmp_path / "0.parquet")
    with pytest.raises(
        ValueError, match=r"for degradation_column \(candidates: task, kind\); set degradation_column to one of image, task, prompt"
    ):
        _ = RealIRBench(str(tmp_path)).contents
    assert len(RealIRBench(str(tmp_path), degradation_column="kind").contents.entries) == 9
    with pytest.raises(ValueError, match="has no column sort; it has image, task, prompt, kind"):
        _ = RealIRBench(str(tmp_path), degradation_column="sort").contents


def test_a_folder_with_neither_is_an_error_that_says_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"no table \(.parquet, .arrow\) and no folder of a degradation such as blur/"):
        _ = RealIRBench(str(make(tmp_path, "x/1.png"))).contents
