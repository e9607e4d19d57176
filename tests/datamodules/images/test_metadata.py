"""Comments, IPTC and XMP in the form of each format, or named where it has none; limits of the formats."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from datamodules.images import TooLargeImageError, check_size, encode_photo, lost_in, read_photo, tagged
from datamodules.images.formats import AVIF, BMP, JPEG, PNG, TIFF, WEBP
from datamodules.images.iptc import as_resource, iptc_in_resources
from datamodules.images.jpeg import with_segments
from tests.datamodules.images.made_images import SRGB, encoded, exif, picture

IPTC = b"\x1c\x02\x78\0\5hello"
PACKET = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="here"/></rdf:RDF></x:xmpmeta>'
)


def read(folder, data, name="photo"):
    (folder / name).write_bytes(data)
    return read_photo(folder / name)


def test_comments_and_iptc_of_a_jpeg_come_into_png_and_jpeg(tmp_path):
    segments = b"".join(b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text for text in ("Schön".encode(), b"na\xefve"))
    resources = b"8BIM\3\xed\0\0\0\0\0\x10" + bytes(16) + b"8BIM\4\4\0\0\0\0\0\x0a" + IPTC
    segments += b"\xff\xed" + (len(resources) + 16).to_bytes(2, "big") + b"Photoshop 3.0\0" + resources
    source = encoded("JPEG", exif=exif(6).tobytes(), icc_profile=SRGB)
    photo = read(tmp_path, source[:2] + segments + source[2:])
    assert photo.text == (("Comment", "Schön"), ("Comment", "naïve")) and photo.iptc == IPTC and photo.icc == SRGB
    for kind in (PNG, JPEG):
        data = encode_photo(photo, photo.pixels, kind)
        back = read(tmp_path, data)
        assert (back.text, back.iptc, back.icc) == (photo.text, IPTC, SRGB) and b"Maker" in back.exif and lost_in(photo, kind) == ()
    written = Image.open(io.BytesIO(data))
    assert written.info["photoshop"][0x0404] == IPTC and written.info["comment"] == "naïve".encode()


def test_texts_of_a_png_are_comments_of_a_jpeg(tmp_path):
    photo = dataclasses.replace(read(tmp_path, encoded("PNG")), text=(("parameters", "a castle"), ("Comment", "mine")))
    back = read(tmp_path, encode_photo(photo, photo.pixels, JPEG))
    assert back.text == (("Comment", "parameters: a castle"), ("Comment", "mine"))


def test_segments_come_after_those_of_applications():
    data = with_segments(encoded("JPEG", exif=exif().tobytes()), (("Comment", "mine"),), None)
    assert data[:4] == b"\xff\xd8\xff\xe0" and b"Exif" in data[: data.index(b"\xff\xfe")]
    assert (np.asarray(Image.open(io.BytesIO(data))) == np.asarray(Image.open(io.BytesIO(encoded("JPEG"))))).all()


@pytest.mark.parametrize("kind", [PNG, JPEG, TIFF, WEBP, AVIF])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_xmp_reaches_every_format_that_holds_it(tmp_path, kind, dtype):
    source = dataclasses.replace(read(tmp_path, encoded("PNG")), xmp=PACKET, exif=exif().tobytes()[6:], pixels=picture(dtype=dtype))
    data = encode_photo(source, source.pixels, kind)
    back = read(tmp_path, data)
    assert back.xmp == PACKET and b"Maker" in back.exif and b"2020:01:02 03:04:05" in back.exif
    assert not any("XMP" in lost or "EXIF" in lost for lost in lost_in(source, kind))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (WEBP, {"WEBP does not hold its text (Author)", "WEBP does not hold its IPTC"}),
        (AVIF, {"AVIF does not hold its text (Author)", "AVIF does not hold its IPTC"}),
        (TIFF, {"TIFF does not hold its text (Author)"}),
        (BMP, {"BMP does not hold its text (Author)", "BMP does not hold its IPTC", "BMP does not hold its profile and metadata"}),
        (JPEG, set()),
        (PNG, set()),
    ],
)
def test_what_a_format_has_no_place_for_is_named(tmp_path, kind, words):
    photo = dataclasses.replace(read(tmp_path, encoded("PNG")), text=(("Author", "me"), ("Author", "you")), iptc=IPTC, icc=SRGB)
    assert set(lost_in(photo, kind)) == words
    assert (read(tmp_path, encode_photo(photo, photo.pixels, kind)).pixels.shape) == (24, 40, 3)


def test_what_exceeds_a_segment_of_a_jpeg_is_left_out_and_named(tmp_path):
    long = b"x" * 70_000
    full = exif()
    full[0x010E] = long.decode()
    photo = dataclasses.replace(
        read(tmp_path, encoded("PNG")),
        exif=full.tobytes()[6:],
        xmp=PACKET + b" " * 70_000,
        iptc=IPTC + long,
        text=(("Comment", "short"), ("prompt", long.decode())),
        icc=SRGB,
    )
    back = read(tmp_path, encode_photo(photo, photo.pixels, JPEG))
    assert (back.exif, back.xmp, back.iptc, back.text, back.icc) == (None, None, None, (("Comment", "short"),), SRGB)
    named = [lost.split(" of ")[0].split(" does")[0] for lost in lost_in(photo, JPEG)]
    assert named == ["its EXIF", "its XMP", "its IPTC", "its text prompt"]
    back = read(tmp_path, encode_photo(photo, photo.pixels, PNG))
    assert (back.exif, back.xmp, back.iptc, back.text) == (photo.exif, photo.xmp, photo.iptc, photo.text)


@pytest.mark.parametrize(("field", "limit"), [("exif", 65_533 - 6), ("xmp", 65_533 - 29), ("iptc", 65_533 - 14 - 12)])
def test_what_just_fits_a_segment_of_a_jpeg_is_kept(tmp_path, field, limit):
    content = exif().tobytes()[6:] if field == "exif" else b"x"
    for size, kept in ((limit // 2 * 2, True), (limit + 2, False)):
        photo = dataclasses.replace(read(tmp_path, encoded("PNG")), **{field: content.ljust(size, b" ")})
        back = read(tmp_path, encode_photo(photo, photo.pixels, JPEG))
        assert (getattr(back, field) == getattr(photo, field)) == kept == (lost_in(photo, JPEG) == ())


@pytest.mark.parametrize(("kind", "most"), [(WEBP, 16_383), (JPEG, 65_500), (PNG, 2**31 - 1)])
def test_a_side_longer_than_the_format_holds_is_refused(kind, most):
    check_size(most, 1, kind)
    for size in ((most + 1, 1), (1, most + 1)):
        with pytest.raises(TooLargeImageError, match="on a side; write it as PNG or TIFF"):
            check_size(*size, kind)


@pytest.mark.parametrize("kind", [WEBP, JPEG])
def test_the_longest_side_is_written(tmp_path, kind):
    most = {WEBP: 16_383, JPEG: 65_500}[kind]
    photo = dataclasses.replace(read(tmp_path, encoded("PNG")), pixels=np.zeros((1, most, 3), np.uint8))
    assert read(tmp_path, encode_photo(photo, photo.pixels, kind)).pixels.shape == (1, most, 3)


@pytest.mark.parametrize("xmp", [None, PACKET])
def test_settings_join_the_xmp_and_replace_earlier_ones(tmp_path, xmp):
    from xml.etree import ElementTree

    photo = dataclasses.replace(read(tmp_path, encoded("PNG")), xmp=xmp)
    photo = tagged(tagged(photo, {"settings": "old", "version": "0"}), {"settings": '{"steer": {"a": "<&>"}}'})
    packet = ElementTree.fromstring(photo.xmp.decode().removeprefix("\ufeff"))
    rdf = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
    descriptions = packet.findall(f"{rdf}RDF/{rdf}Description")
    assert len(descriptions) == 1 + (xmp is not None)
    (element,) = list(descriptions[-1])
    assert element.tag == "{urn:mimdit:restore#}settings" and element.text == '{"steer": {"a": "<&>"}}'
    assert xmp is None or descriptions[0].attrib["{http://purl.org/dc/elements/1.1/}source"] == "here"


def test_a_packet_without_a_place_for_settings_stays(tmp_path):
    photo = tagged(dataclasses.replace(read(tmp_path, encoded("PNG")), xmp=b"<x/>"), {"version": "1"})
    assert photo.xmp == b"<x/>" and photo.remarks == ("its XMP has no place for the settings",)


def test_quality_is_that_of_the_file(tmp_path):
    photo = read(tmp_path, encoded("PNG"))
    for kind, default in ((JPEG, 95), (WEBP, 95), (AVIF, 90)):
        sizes = [len(encode_photo(photo, photo.pixels, kind, quality=quality)) for quality in (5, 50, 100)]
        assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
        assert encode_photo(photo, photo.pixels, kind, quality=default) == encode_photo(photo, photo.pixels, kind)
    lossless = dataclasses.replace(photo, lossless=True)
    assert np.array_equal(read(tmp_path, encode_photo(lossless, photo.pixels, WEBP)).pixels, photo.pixels)
    assert len(encode_photo(lossless, photo.pixels, WEBP, quality=5)) < len(encode_photo(lossless, photo.pixels, WEBP))


def test_a_lossless_webp_with_a_profile_is_still_lossless(tmp_path):
    photo = read(tmp_path, encoded("WEBP", lossless=True, exact=True, icc_profile=SRGB))
    assert photo.lossless and not read(tmp_path, encoded("WEBP", icc_profile=SRGB)).lossless


def test_a_block_of_no_iptc_records_is_none():
    block = as_resource(b"")
    assert iptc_in_resources(block) is None and iptc_in_resources(as_resource(b"\x1c\x02\x05\0\0")) == b"\x1c\x02\x05\0\0"
