"""Every layout on a look-alike: which pairs it finds, in which groups, with the right pixels, and what it cannot pair."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from datamodules.test_sets import CDD11, FoundIR, InstructIR, MoCEIR, PairFolders, PolyU, PromptIR, Shards, SIDDBlocks, Unpaired
from datamodules.test_sets.files import degradations_of
from tests.datamodules.made_shards import keys_of, made_image, make_folder
from tests.datamodules.test_sets.made_trees import check_pixels, make, pairs_of, pixels


def test_two_folders_are_paired_by_name_whatever_the_suffix(tmp_path):
    root = make(tmp_path / "GoPro", "input/a.png", "input/b.JPG", "target/b.png", "target/a.jpg")
    contents = PairFolders(str(root)).contents
    assert pairs_of(contents) == [("GoPro", "a"), ("GoPro", "b")] and not contents.unpaired
    assert contents.entries[0].degradations == ("blur",)
    check_pixels(contents.entries[1], "input/b.JPG", "target/b.png")


def test_sub_folders_are_groups(tmp_path):
    names = ("GoPro/input/1.png", "GoPro/target/1.png", "RealBlur_J/input/1.png", "RealBlur_J/target/1.png", "notes/read.png")
    assert pairs_of(PairFolders(str(make(tmp_path, *names))).contents) == [("GoPro", "1"), ("RealBlur_J", "1")]
    assert pairs_of(PairFolders(str(tmp_path), groups=["RealBlur_J"]).contents) == [("RealBlur_J", "1")]
    with pytest.raises(ValueError, match="no group HIDE; it has GoPro, RealBlur_J"):
        _ = PairFolders(str(tmp_path), groups=["HIDE"]).contents


@pytest.mark.parametrize("sides", [("low", "high"), ("Low", "Normal"), ("LQ", "GT"), ("IN", "GT")])
def test_the_usual_names_of_sides_are_known(tmp_path, sides):
    root = make(tmp_path / "LOLv1" / "Test", f"{sides[0]}/1.png", f"{sides[1]}/1.png")
    (entry,) = PairFolders(str(root)).contents.entries
    assert entry.degradations == ("lowlight",)
    check_pixels(entry, f"{sides[0]}/1.png", f"{sides[1]}/1.png")


def test_sides_can_be_named_and_truths_renamed(tmp_path):
    root = make(tmp_path / "LOLv2", "dark/low00690.png", "bright/normal00690.png")
    (entry,) = PairFolders(str(root), sides=("dark", "bright"), truth_name=("^low", "normal")).contents.entries
    check_pixels(entry, "dark/low00690.png", "bright/normal00690.png")


def test_several_or_no_sides_are_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="more than one pair of folders .*sides:"):
        _ = PairFolders(str(make(tmp_path / "a", "input/1.png", "target/1.png", "low/1.png", "high/1.png"))).contents
    with pytest.raises(ValueError, match="looked for input/ and target/"):
        _ = PairFolders(str(make(tmp_path / "b", "x/1.png"))).contents
    with pytest.raises(ValueError, match="does not exist"):
        _ = PairFolders(str(tmp_path / "c")).contents


def test_what_has_no_partner_is_listed(tmp_path):
    root = make(tmp_path, "input/1.png", "input/2.png", "input/3.png", "input/3.jpg", "target/1.png", "target/3.png", "target/4.png")
    contents = PairFolders(str(root)).contents
    assert [entry.key for entry in contents.entries] == ["1"]
    assert [line.split(": ")[1][:8] for line in contents.unpaired] == ["no image", "only the", "no image"]
    assert "input/2.png" in contents.unpaired[0] and "3.jpg" in contents.unpaired[1] and "target/4.png" in contents.unpaired[2]


def test_promptir_and_adair(tmp_path):
    make(
        tmp_path / "test",
        *("derain/Rain100L/input/rain-001.png", "derain/Rain100L/target/norain-001.png", "derain/Rain100L/input/2.png"),
        *("derain/Rain100L/target/2.png", "dehaze/input/0025_0.8_0.1.jpg", "dehaze/input/0025_0.9_0.2.jpg", "dehaze/target/0025.png"),
        *("denoise/bsd68/x.png", "deblur/gopro/input/1.png", "deblur/gopro/target/1.png", "enhance/lol/input/1.png"),
        "enhance/lol/target/1.png",
    )
    contents = PromptIR(str(tmp_path)).contents
    assert not contents.unpaired
    assert pairs_of(contents) == [
        *(("Rain100L", "2"), ("Rain100L", "rain-001"), ("SOTS", "0025_0.8_0.1"), ("SOTS", "0025_0.9_0.2")),
        *((f"CBSD68 sigma{sigma}", "x") for sigma in (15, 25, 50)),
        *(("GoPro", "1"), ("LOL", "1")),
    ]
    check_pixels(contents.entries[1], "derain/Rain100L/input/rain-001.png", "derain/Rain100L/target/norain-001.png")
    check_pixels(contents.entries[3], "dehaze/input/0025_0.9_0.2.jpg", "dehaze/target/0025.png")
    assert PromptIR(str(tmp_path)).crop == 16 and PromptIR(str(tmp_path), crop=1).crop == 1
    assert pairs_of(PromptIR(str(tmp_path), sets=["CBSD68"], sigmas=[5]).contents) == [("CBSD68 sigma5", "x")]
    with pytest.raises(ValueError, match=r"lacks Kodak24 \(denoise/kodak24\)"):
        _ = PromptIR(str(tmp_path), sets=["Kodak24"]).contents
    with pytest.raises(ValueError, match="holds none of its sets; PromptIR looks there"):
        _ = PromptIR(str(tmp_path / "test" / "denoise")).contents


def test_added_noise_has_its_sigma_and_is_drawn_once_and_for_all(tmp_path):
    make(tmp_path, "denoise/bsd68/x.png", height=100, width=120)
    (tmp_path / "denoise/bsd68/x.png").unlink()
    Image.fromarray(np.full((100, 120, 3), 128, np.uint8)).save(tmp_path / "denoise/bsd68/x.png")
    for entry, again, sigma in zip(PromptIR(str(tmp_path)).contents.entries, PromptIR(str(tmp_path)).contents.entries, (15, 25, 50)):
        noisy, clean = entry.load()
        assert np.array_equal(noisy, again.load()[0]) and (clean == 128).all() and noisy.dtype == np.uint8
        expected = np.clip(128 + np.random.default_rng(0).normal(size=36000) * sigma, 0, 255).astype(np.uint8)
        assert noisy.std() == pytest.approx(expected.std(), rel=0.03) and noisy.mean() == pytest.approx(expected.mean(), abs=0.7)


def test_moceir_and_instructir(tmp_path):
    root = make(
        tmp_path / "datasets",
        *("deraining/Rain100L/rainy/rain-1.png", "deraining/Rain100L/gt/norain-1.png", "dehazing/SOTS/outdoor/hazy/1_0.8.jpg"),
        *("dehazing/SOTS/outdoor/gt/1.png", "denoising/cBSD68/original_png/7.png", "llie/LOLv1/Test/input/1.png"),
        "llie/LOLv1/Test/target/1.png",
    )
    names = [("Rain100L", "rain-1"), ("SOTS", "1_0.8"), *((f"CBSD68 sigma{sigma}", "7") for sigma in (15, 25, 50)), ("LOL", "1")]
    assert pairs_of(MoCEIR(str(root)).contents) == names
    root = make(
        tmp_path / "test-data",
        *("denoising_testsets/CBSD68/7.png", "denoising_testsets/CBSD68_15/7.png", "denoising_testsets/CBSD68_50/7.png"),
        *("SOTS/IN/1_0.8.jpg", "SOTS/GT/1.png", "LOL/low/1.png", "LOL/high/1.png"),
    )
    contents = InstructIR(str(root)).contents
    assert pairs_of(contents) == [("CBSD68 sigma15", "7"), ("CBSD68 sigma50", "7"), ("SOTS", "1_0.8"), ("LOL", "1")]
    check_pixels(contents.entries[1], "denoising_testsets/CBSD68_50/7.png", "denoising_testsets/CBSD68/7.png")


def test_daclip_groups_are_its_degradations(tmp_path):
    root = make(tmp_path / "val", *(f"{name}/{side}/1.png" for name in ("motion-blurry", "snowy", "low-light") for side in ("LQ", "GT")))
    found = {entry.group: entry.degradations for entry in PairFolders(str(root)).contents.entries}
    assert found == {"low-light": ("lowlight",), "motion-blurry": ("blur",), "snowy": ("snow",)}


def test_cdd11_pairs_every_degradation_with_the_clear_folder(tmp_path):
    root = make(tmp_path / "CDD-11_test", *(f"{name}/00001.png" for name in ("clear", "low", "low_haze_rain", "haze_snow")))
    contents = CDD11(str(root)).contents
    assert pairs_of(contents) == [("haze_snow", "00001"), ("low", "00001"), ("low_haze_rain", "00001")]
    assert contents.entries[2].degradations == ("lowlight", "haze", "rain")
    check_pixels(contents.entries[0], "haze_snow/00001.png", "clear/00001.png")


def test_polyu_real_and_mean(tmp_path):
    root = make(tmp_path, "Canon5D2_bag_real.JPG", "Canon5D2_bag_mean.JPG", "Nikon_a_b_mean.JPG", "Nikon_a_b_real.JPG", "Sony_x_real.JPG")
    contents = PolyU(str(root)).contents
    assert [entry.key for entry in contents.entries] == ["Canon5D2_bag", "Nikon_a_b"]
    check_pixels(contents.entries[0], "Canon5D2_bag_real.JPG", "Canon5D2_bag_mean.JPG")
    assert len(contents.unpaired) == 1 and "no Sony_x_mean" in contents.unpaired[0]


def test_sidd_blocks(tmp_path):
    noisy, clean = (np.random.default_rng(seed).integers(0, 256, (2, 3, 8, 10, 3), dtype=np.uint8) for seed in (0, 1))
    savemat(tmp_path / "ValidationNoisyBlocksSrgb.mat", {"ValidationNoisyBlocksSrgb": noisy})
    with pytest.raises(ValueError, match="ValidationGtBlocksSrgb.mat is missing"):
        _ = SIDDBlocks(str(tmp_path)).contents
    savemat(tmp_path / "ValidationGtBlocksSrgb.mat", {"ValidationGtBlocksSrgb": clean})
    entries = SIDDBlocks(str(tmp_path)).contents.entries
    assert [entry.key for entry in entries] == [f"{image:02d}-{block:02d}" for image in range(2) for block in range(3)]
    lq, gt = entries[4].load()
    assert np.array_equal(lq, noisy[1, 1]) and np.array_equal(gt, clean[1, 1])


def test_unpaired_folders(tmp_path):
    root = make(tmp_path / "low", "DICM/01.JPG", "DICM/02.png", "VV/P1.jpg", "VV/P1.png")
    contents = Unpaired(str(root)).contents
    assert pairs_of(contents) == [("DICM", "01"), ("DICM", "02"), ("VV", "P1.jpg"), ("VV", "P1.png")]
    check_pixels(contents.entries[2], "VV/P1.jpg", None)
    assert pairs_of(Unpaired(str(root / "DICM")).contents) == [("DICM", "01"), ("DICM", "02")]
    assert contents.entries[0].degradations == ("lowlight",)


@pytest.mark.parametrize("path", ["{group}/{side}/{name}", "{side}/{group}/{name}"])
def test_foundir_in_both_layouts(tmp_path, path):
    files = [
        ("01Blur", "GT", "0001.png"),
        ("01Blur", "LQ", "0001.JPG"),
        ("12NightRain", "GT", "1001.png"),
        ("12NightRain", "LQ", "1001.png"),
    ]
    files += [("12NightRain", "LQ", "1002.png")]
    make(tmp_path, *(path.format(group=group, side=side, name=name) for group, side, name in files))
    benchmark = FoundIR(str(tmp_path))
    assert pairs_of(benchmark.contents) == [("01Blur", "0001"), ("12NightRain", "1001")]
    assert benchmark.contents.entries[1].degradations == ("rain", "lowlight")
    assert benchmark.contents.unpaired[0].startswith("12NightRain/1002: no GT image")
    gt, lq = (path.format(group="01Blur", side=side, name=name) for _, side, name in files[:2])
    check_pixels(benchmark.contents.entries[0], lq, gt)
    assert "01Blur 1 of 150" in benchmark.protocol()["differs_from_published"]


def test_shards(tmp_path):
    make_folder(tmp_path / "data")
    contents = Shards(str(tmp_path / "data"), groups=["09Lowlight_Haze"]).contents
    assert sorted(f"{group}/{key}" for group, key in pairs_of(contents)) == [key for key in keys_of() if key.startswith("09")]
    some = Shards(str(tmp_path / "data"), groups=["01Blur"], keys="000[05]$").contents
    assert sorted(pairs_of(some)) == [("01Blur", "0000"), ("01Blur", "0005")]
    with pytest.raises(ValueError, match="none with the chosen keys"):
        _ = Shards(str(tmp_path / "data"), keys="severity").contents
    lq, gt = contents.entries[2].load()
    assert np.array_equal(lq, made_image(f"09Lowlight_Haze/{contents.entries[2].key}")) and np.array_equal(gt, 255 - lq)


def test_exif_turns_input_and_truth_alike(tmp_path):
    for side in ("input", "target"):
        (tmp_path / side).mkdir()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels(side)).save(tmp_path / side / "1.jpg", quality=100, exif=exif)
    lq, gt = PairFolders(str(tmp_path)).contents.entries[0].load()
    assert lq.shape == gt.shape == (24, 20, 3)


@pytest.mark.parametrize("name, told", [("GoPro", "blur"), ("RealBlur_R", "blur"), ("jpeg-compressed", "jpeg"), ("whatever", ""),
                                        ("low_haze_snow", "lowlight haze snow"), ("15Lowlight_Blur", "blur lowlight")])  # fmt: skip
def test_degradations_by_name(name, told):
    assert degradations_of(name) == tuple(told.split())
