"""Tiles: every pixel, nothing but the pixels, and in mixed order."""

import hashlib

import cv2
import numpy as np
import pytest

from datamodules.conversion.options import Options
from datamodules.conversion.tiles import TileGrid, cut_tiles, shuffle_tiles
from datamodules.decoding import decode_image
from datamodules.rng import named_rng
from tests.datamodules.conversion.made_conversion import converted, fields, samples, stem_of, stored


@pytest.mark.parametrize("height, width, side", [(64, 64, 32), (65, 95, 32), (33, 31, 32), (10, 100, 32), (20, 20, 32), (100, 33, 16)])
def test_tiles_show_every_pixel_and_are_whole(height, width, side):
    grid = TileGrid(height, width, side)
    seen = np.zeros((height, width), int)
    for top in grid.rows:
        for left in grid.columns:
            tile = seen[top : top + side, left : left + side]
            assert tile.shape == (min(side, height), min(side, width))
            tile += 1
    assert seen.min() == 1
    assert len(grid.rows) == -(-height // side) and len(grid.columns) == -(-width // side)


@pytest.mark.parametrize("codec", ["png", "webp"])
def test_tiles_are_lossless_crops_at_one_place_of_both_images(codec):
    lq, gt = (named_rng(side).integers(0, 256, (50, 70, 3), dtype=np.uint8) for side in ("lq", "gt"))
    said = {"group": "01Blur", "width": 70, "height": 50, "lq_orientation": 6, "gt_orientation": 1}
    tiles = cut_tiles("01Blur/1", lq, gt, 32, codec, said)
    assert [tile["__key__"] for tile in tiles] == [f"01Blur/1_t0{row}x0{column}" for row in range(2) for column in range(3)]
    assert [tile["json"]["tile"] for tile in tiles] == [[top, left] for top in (0, 18) for left in (0, 32, 38)]
    for tile in tiles:
        top, left = tile["json"]["tile"]
        for side, image in (("lq", lq), ("gt", gt)):
            data = tile[f"{side}.{codec}"]
            crop = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert np.array_equal(crop, image[top : top + 32, left : left + 32])
            assert tile["json"][f"{side}_sha256"] == hashlib.sha256(data).hexdigest()
            assert tile["json"][f"{side}_orientation"] == 1
        assert (tile["json"]["width"], tile["json"]["height"], tile["json"]["group"]) == (32, 32, "01Blur")


def test_a_missing_tile_does_not_move_the_others():
    tiles = [{"__key__": f"01Blur/{number}"} for number in range(50)]
    order = shuffle_tiles(tiles, 0)
    assert shuffle_tiles(tiles[:20] + tiles[21:], 0) == [tile for tile in order if tile is not tiles[20]]
    assert shuffle_tiles(tiles, 1) != order != tiles


def test_converted_tiles_are_the_crops_of_the_upright_images(pairs, source, tmp_path):
    whole, tiled = (converted(source, tmp_path / str(tile), Options(shard_size=1, tile=tile, limit=6)) for tile in (None, 64))
    images = samples(whole)
    turned = 0
    for key, sample in samples(tiled).items():
        original = images[f"{sample.key.split('/')[0]}/{stem_of(key)}"]
        top, left = fields(sample)["tile"]
        for side in ("lq", "gt"):
            image = decode_image(getattr(original, side), "original")
            assert np.array_equal(decode_image(getattr(sample, side), "tile"), image[top : top + 64, left : left + 64])
        turned += fields(original)["gt_orientation"] == 6
    assert len(samples(tiled)) == 18 * 9 and turned > 0


def test_the_tiles_of_an_image_stay_in_one_shard_and_part_company(source, tmp_path):
    shards = stored(converted(source, tmp_path / "data", Options(shard_size=1, tile=64)))
    homes: dict[str, set[str]] = {}
    neighbors = total = 0
    for name, listed in shards.items():
        stems = [stem_of(sample.key) for sample in listed]
        for stem in stems:
            homes.setdefault(stem, set()).add(name)
        neighbors += sum(first == second for first, second in zip(stems, stems[1:]))
        total += len(stems)
    assert all(len(home) == 1 for home in homes.values()) and len(homes) == 54
    assert neighbors < total / 2  # unshuffled 8 of 9 would follow a tile of their own image
