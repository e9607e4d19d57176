"""The settings that made a result, as properties in its XMP packet."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from xml.sax.saxutils import escape

from datamodules.images.photo import Photo

NAMESPACE = "urn:mimdit:restore#"
"""XML namespace of the properties."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_EMPTY = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    f'<rdf:RDF xmlns:rdf="{_RDF}"></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
).encode()
_OPENING = f'<rdf:Description rdf:about="" xmlns:mimdit="{NAMESPACE}">'
_EARLIER = re.compile(re.escape(_OPENING.encode()) + rb".*?</rdf:Description>", re.DOTALL)
_END = b"</rdf:RDF>"


def tagged(photo: Photo, properties: Mapping[str, str]) -> Photo:
    """Return the photo with properties, by names of XML elements, in its XMP packet; earlier ones are replaced.

    A packet that has no place for them stays as it is, with a remark.
    """
    packet = _EARLIER.sub(b"", photo.xmp or _EMPTY)
    before, end, after = packet.rpartition(_END)
    if not end:
        return dataclasses.replace(photo, remarks=(*photo.remarks, "its XMP has no place for the settings"))
    elements = "".join(f"<mimdit:{name}>{escape(value)}</mimdit:{name}>" for name, value in properties.items())
    return dataclasses.replace(photo, xmp=before + f"{_OPENING}{elements}</rdf:Description>".encode() + end + after)
