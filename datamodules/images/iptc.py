"""IPTC records in Photoshop's image resources, where JPEG and ImageMagick keep them."""

from __future__ import annotations

import struct

_IPTC = 0x0404
_SIGNATURE = b"8BIM"


def iptc_in_resources(resources: bytes) -> bytes | None:
    """Return the IPTC records of a block of image resources; None if it has none, or no bytes of them.

    Raises:
        struct.error: A resource is cut short.
    """
    place = 0
    while resources[place : place + 4] == _SIGNATURE:
        (number,) = struct.unpack_from(">H", resources, place + 4)
        place += 6 + (resources[place + 6] + 2) // 2 * 2  # a Pascal string of an even number of bytes
        (size,) = struct.unpack_from(">I", resources, place)
        if number == _IPTC:
            return resources[place + 4 : place + 4 + size] or None
        place += 4 + (size + 1) // 2 * 2
    return None


def as_resource(iptc: bytes) -> bytes:
    """Return a block with the one image resource that holds IPTC records."""
    return _SIGNATURE + struct.pack(">HHI", _IPTC, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
