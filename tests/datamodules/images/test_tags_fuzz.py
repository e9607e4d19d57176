"""TIFF tags and PNG chunks in every combination: read as tifffile and Pillow read them, or refused by name."""

import io
import itertools
import struct
import zlib
from collections import Counter
from dataclasses import dataclass

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from datamodules.images import UnreadableImageError, read_photo
from tests.datamodules.images.made_images import exif, picture, png, tiff, upright

DEPTHS = {"uint8": np.uint8, "uint16": np.uint16, "12 bit": np.uint16, "int16": np.int16, "uint32": np.uint32, "float32": np.float32}
PHOTOMETRIC = {"miniswhite": 1, "minisblack": 1, "rgb": 3, "cielab": 3, "separated": 4}
EXTRA = ((), ("unassalpha",), ("assocalpha",), ("unspecified",), ("unspecified", "unassalpha"))
COMPRESSION = ((None, False), ("lzw", False), ("lzw", True), ("adobe_deflate", False), ("adobe_deflate", True), ("packbits", False))
LAYOUT = ({"rowsperstrip": 24}, {"rowsperstrip": 7}, {"tile": (16, 16)})
MUST_READ = {"miniswhite", "minisblack", "rgb"}


@dataclass(frozen=True)
class Kind:
    """A combination of tags."""

    depth: str
    photometric: str
    extra: tuple[str, ...]
    planar: str
    order: str
    compression: tuple[str | None, bool]
    layout: int
    orientation: int

    @property
    def must_be_read(self) -> bool:
        return self.depth in ("uint8", "uint16") and self.photometric in MUST_READ

    def samples(self) -> np.ndarray:
        """``[H, W, C]`` as they are stored; associated colors are at most their alpha."""
        dtype = DEPTHS[self.depth]
        colors = PHOTOMETRIC[self.photometric]
        whole = np.concatenate([picture(dtype=np.uint16, seed=seed) for seed in range(3)], axis=2)[:, :, : colors + len(self.extra)]
        if "assocalpha" in self.extra:
            whole = whole.copy()
            whole[:, :, :colors] = np.minimum(whole[:, :, :colors], whole[:, :, colors:])
        if dtype == np.float32:
            return (whole / 65535).astype(dtype)
        shift = {"uint8": 8, "12 bit": 4, "int16": 1}.get(self.depth, 0)
        return (whole >> shift).astype(dtype)

    def file(self) -> bytes:
        pixels = self.samples()
        separate = self.planar == "separate" and pixels.shape[2] > 1
        stored = pixels.transpose(2, 0, 1) if separate else pixels if pixels.shape[2] > 1 else pixels[:, :, 0]
        name, predictor = self.compression
        settings = {"planarconfig": self.planar} if pixels.shape[2] > 1 else {}
        if self.extra:
            settings["extrasamples"] = self.extra
        if self.depth == "12 bit":
            settings["bitspersample"] = 12
        return tiff(
            stored,
            photometric=self.photometric,
            byteorder=self.order,
            compression=name,
            predictor=predictor,
            extratags=[(274, "H", 1, self.orientation, True)],
            **LAYOUT[self.layout],
            **settings,
        )


def every_kind() -> list[Kind]:
    """Each pair of values of two tags, and of what must be read every combination but those of orientation and layout."""
    tags = (DEPTHS, PHOTOMETRIC, EXTRA, ("contig", "separate"), ("<", ">"), COMPRESSION, range(len(LAYOUT)), range(1, 9))
    rng = np.random.default_rng(0)
    kinds = []
    for depth, photometric, extra, planar, order, compression, layout in itertools.product(*tags[:-1]):
        kind = Kind(depth, photometric, extra, planar, order, compression, layout, int(rng.integers(1, 9)))
        if kind.must_be_read or rng.random() < 0.08:
            kinds.append(kind)
    return kinds


def expected(kind: Kind, data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Colors and alpha as tifffile's samples and the tags' meaning give them; of CMYK, Pillow's."""
    if kind.photometric == "separated":
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB")), None  # upright by itself
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        page = tif.pages[0]
        stored = page.asarray()
        if page.planarconfig == 2 and stored.ndim == 3:
            stored = stored.transpose(1, 2, 0)
    stored = stored.reshape(24, 40, -1)
    colors = PHOTOMETRIC[kind.photometric]
    color, most = stored[:, :, :colors].astype(np.float64), np.iinfo(stored.dtype).max
    if kind.photometric == "miniswhite":
        color = most - color
    place = next((place for place, name in enumerate(kind.extra) if name != "unspecified"), None)
    alpha = None if place is None else stored[:, :, colors + place]
    if alpha is not None and kind.extra[place] == "assocalpha":
        with np.errstate(all="ignore"):
            color = np.clip(np.nan_to_num(color * most / alpha[:, :, None], nan=0.0, posinf=0.0), 0, most)
    color = upright(np.rint(color).astype(stored.dtype), kind.orientation)
    return color, None if alpha is None else upright(alpha[:, :, None], kind.orientation)[:, :, 0]


def pillow_agrees(kind: Kind, data: bytes, pixels: np.ndarray) -> bool | None:
    """Compare opaque colors with Pillow's, where it reads this kind as it is: RGB of 16 bits it reduces, such gray it does not invert."""
    if kind.extra or not kind.must_be_read or (kind.depth == "uint16" and kind.photometric != "minisblack"):
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            seen = np.asarray(image)
            turned = image.getexif().get(274, 1)  # asked after loading, which may have turned it
    except (OSError, SyntaxError, ValueError):
        return None
    seen = upright(seen.reshape(*seen.shape[:2], -1), turned)
    return seen.shape == pixels.shape and bool(np.array_equal(seen, pixels))


@pytest.mark.long
def test_every_combination_of_tiff_tags(tmp_path):
    kinds, path, outcomes = every_kind(), tmp_path / "a.tif", Counter()
    for kind in kinds:
        try:
            data = kind.file()
        except (ValueError, NotImplementedError, TypeError):  # tifffile does not write it, such as 12 bits with a predictor
            assert not kind.must_be_read, kind
            outcomes["not made"] += 1
            continue
        path.write_bytes(data)
        try:
            photo = read_photo(path)
        except UnreadableImageError as error:
            assert not kind.must_be_read, (kind, error)
            assert "damaged" not in str(error) and "cut short" not in str(error), (kind, error)
            outcomes["named"] += 1
            continue
        color, alpha = expected(kind, data)
        assert photo.pixels.dtype == color.dtype and np.array_equal(photo.pixels, color), kind
        assert (photo.alpha is None) == (alpha is None) and (alpha is None or np.array_equal(photo.alpha, alpha)), kind
        assert kind.photometric == "separated" or bool(photo.remarks) == ("unspecified" in kind.extra), kind
        outcomes["read"] += 1
        if (agrees := pillow_agrees(kind, data, photo.pixels)) is not None:
            assert agrees, kind
            outcomes["as Pillow"] += 1
    print(len(kinds), outcomes)
    assert outcomes["read"] > 1000 and outcomes["named"] > 100 and outcomes["as Pillow"] > 100


KEYS = ("none", "present", "absent")
"""Transparent key color: none, one that a pixel has, one that no pixel has."""
CHUNKS = {
    "text": (b"tEXt", b"Author\0me"),
    "zipped": (b"zTXt", b"Comment\0\0" + zlib.compress(b"long " * 99)),
    "too large": (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2 << 20))),
    "profile": (b"iCCP", b"p\0\0" + zlib.compress(bytes(600))),
    "gamma": (b"gAMA", struct.pack(">I", 45455)),
    "resolution": (b"pHYs", struct.pack(">IIB", 11811, 11811, 1)),
    "unknown": (b"abCd", b"anything"),
}


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    if bits >= 8:
        return values.astype(np.uint16) if bits == 16 else values.reshape(len(values), -1)
    digits = (values.reshape(len(values), -1, 1) >> np.arange(bits)[::-1]) & 1
    return np.packbits(digits.reshape(len(values), -1).astype(np.uint8), axis=1)


@pytest.mark.long
def test_every_combination_of_png_chunks(tmp_path):
    """Pixels as Pillow's of 8 bits or fewer, and libpng's of 16, which imagecodecs calls."""
    rng, path, count = np.random.default_rng(0), tmp_path / "a.png", 0
    kinds = [(bits, kind) for kind, depths in ((0, (1, 2, 4, 8, 16)), (2, (8, 16)), (4, (8, 16)), (6, (8, 16))) for bits in depths]
    for (bits, kind), key, orientation, name in itertools.product(kinds, KEYS, range(1, 9), CHUNKS):
        if key != "none" and kind in (4, 6):
            continue
        channels, most = {0: 1, 2: 3, 4: 2, 6: 4}[kind], (1 << bits) - 1
        values = rng.integers(0, most, (6, 16, channels), endpoint=False)  # the largest value is absent
        chunks = [CHUNKS[name], (b"eXIf", exif(orientation).tobytes()[6:])]
        if key != "none":
            color = values[2, 3] if key == "present" else np.full(channels, most)
            chunks.append((b"tRNS", struct.pack(f">{channels}H", *map(int, color))))
        path.write_bytes(png(packed(values, bits), bits, kind, *chunks, width=16))
        photo = read_photo(path)
        full = 65535 if bits == 16 else 255
        colors = channels - (channels % 2 == 0)
        alpha = values[:, :, -1:] * (full // most) if colors < channels else None
        if key != "none":
            alpha = np.where((values == color).all(axis=2, keepdims=True), 0, full)
        dtype = np.uint16 if bits == 16 else np.uint8
        want = upright((values[:, :, :colors] * (full // most)).astype(dtype), orientation)
        assert photo.pixels.dtype == dtype and np.array_equal(photo.pixels, want), (bits, kind, key, orientation, name)
        assert (photo.alpha is None) == (alpha is None)
        assert alpha is None or np.array_equal(photo.alpha, upright(alpha.astype(dtype), orientation)[:, :, 0])
        assert (len(photo.remarks) == 1) == (name == "too large") and len(photo.text) == (name in ("text", "zipped"))
        assert (photo.icc is not None) == (name == "profile") and (photo.dpi is not None) == (name == "resolution")
        if name != "too large":
            data = path.read_bytes()
            seen = imagecodecs.png_decode(data) if bits == 16 else np.asarray(Image.open(io.BytesIO(data)))
            seen = seen.reshape(6, 16, -1)[:, :, :colors] * np.uint8(255 if bits == 1 else 1)
            assert np.array_equal(upright(seen, orientation), photo.pixels)
        count += 1
    print(count)
    assert count > 1000
