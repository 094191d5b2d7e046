"""XMP: what programs that know nothing of C2PA read of a file's origin, in IPTC's words."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import quoteattr

from vitascope.domain.provenance import DIGITAL_SOURCE_TYPE, Claim
from vitascope.domain.request import OutputFormat

_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
"""Of XMP's box. Source: XMP specification part 3, MPEG-4."""

_GIF_END = b"\x01" + bytes(range(255, -1, -1)) + b"\x00"
"""Leads a reader of GIF blocks out of the packet, wherever in it that reader is. Source: the same, GIF 89a."""

_TEXT_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    {properties}/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def packet(claim: Claim) -> bytes:
    """Write the claim as an XMP packet."""
    values = {
        "xmp:CreatorTool": f"{claim.generator} {claim.version}",
        "xmp:CreateDate": claim.made_at,
        "Iptc4xmpExt:DigitalSourceType": DIGITAL_SOURCE_TYPE,
        "Iptc4xmpExt:AISystemUsed": claim.model,
        "Iptc4xmpExt:AISystemVersionUsed": claim.revision,
        "Iptc4xmpExt:AIPromptInformation": claim.prompt,
    }
    known = [f"{name}={quoteattr(_legal(value))}" for name, value in values.items() if value is not None]
    return _TEXT_PACKET.format(properties="\n    ".join(known)).encode()


def _legal(text: str) -> str:
    """Leave out what XML cannot hold."""
    return "".join(character for character in text if character >= " " or character in "\t\n\r")


def add(path: Path, format: OutputFormat, claim: Claim) -> None:
    """Add the claim to a complete file: nothing that is there moves, so that an MP4's index stays right."""
    data = packet(claim)
    with path.open("r+b") as file:
        if format == "gif":
            file.seek(-1, 2)  # over the last byte, which ends the file
            file.write(_GIF_START + data + _GIF_END + b";")
        else:
            file.seek(0, 2)
            file.write((24 + len(data)).to_bytes(4, "big") + b"uuid" + _UUID + data)


_GIF_START = b"\x21\xff\x0bXMP DataXMP"
_MOST_BYTES = 1 << 19
"""A packet with the longest prompt, each of whose letters is written as an entity."""


def remove(path: Path, format: OutputFormat) -> None:
    """Take the packet off again that `add` has put at the end of a file; of a file without one nothing changes."""
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        begin = file.seek(max(0, end - _MOST_BYTES))
        tail = file.read()
        if format == "gif":
            if (at := tail.rfind(_GIF_START)) >= 0:
                file.truncate(begin + at)
                file.seek(0, 2)
                file.write(b";")
            return
        at = tail.rfind(b"uuid" + _UUID) - 4
        if at >= 0 and begin + at + int.from_bytes(tail[at : at + 4], "big") == end:
            file.truncate(begin + at)
