"""MP3 files frame by frame: their true length, and the parts of those put one behind the other.

An MP3 is a row of frames that each say how long they are; only a first frame with a "Xing" mark
says how many follow. Decoders that find none guess from the bit rate, and those that find one stop
there, whatever comes behind. ISO 11172-3 and 13818-3 have the tables.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
KBITS = {  # layer III
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
LAYER_3 = 1
SLACK = 2  # frames by which a Xing mark may be wrong and still be believed


@dataclass
class Part:
    """Frames of one kind, in a row."""

    start: int
    kind: tuple[int, int, bool]  # version, rate's index, mono
    frames: int = 0
    promised: int | None = None  # frames that its Xing mark speaks of, itself not counted
    spans: list[tuple[int, int]] = field(default_factory=list)


def frame(content: bytes, at: int) -> tuple[int, tuple[int, int, bool]] | None:
    """(length in bytes, kind) of the layer III frame at a place; None where there is none."""
    if at + 4 > len(content) or content[at] != 0xFF or content[at + 1] & 0xE0 != 0xE0:
        return None
    second, third, fourth = content[at + 1 : at + 4]
    version, layer = second >> 3 & 3, second >> 1 & 3
    bits, rate, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
    if version == 1 or layer != LAYER_3 or not 0 < bits < 15 or rate == 3:
        return None
    one = version == 3
    length = (144 if one else 72) * KBITS[one][bits] * 1000 // RATES[version][rate] + padding
    return length, (version, rate, fourth >> 6 == 3)


def side(kind: tuple[int, int, bool]) -> int:
    """Bytes of a frame's header and side information, behind which a Xing mark stands."""
    version, _, mono = kind
    return 4 + ((17 if mono else 32) if version == 3 else (9 if mono else 17))


def xing(content: bytes, at: int, kind: tuple[int, int, bool]) -> int | None:
    """The frames that a Xing mark promises: 0 where it gives no number, None without a mark."""
    place = at + side(kind)
    if content[place : place + 4] not in (b"Xing", b"Info"):
        return None
    flags, count = struct.unpack(">II", content[place + 4 : place + 12].ljust(8, b"\0"))
    return count if flags & 1 else 0


def tag(content: bytes, at: int) -> int:
    """Bytes of the ID3 or APE tag at a place, 0 where there is none."""
    if content[at : at + 3] == b"ID3" and at + 10 <= len(content):
        a, b, c, d = content[at + 6 : at + 10]
        return 10 + (a << 21 | b << 14 | c << 7 | d)
    if content[at : at + 3] == b"TAG":
        return 128
    if content[at : at + 8] == b"APETAGEX" and at + 16 <= len(content):
        return 32 + struct.unpack("<I", content[at + 12 : at + 16])[0]
    return 0


def parts(content: bytes) -> list[Part]:
    """The runs of frames: a Xing mark or another kind of frame begins a new one."""
    pieces: list[Part] = []
    at = 0
    while at < len(content):
        here = frame(content, at)
        if here is None or (not pieces and frame(content, at + here[0]) is None):
            following = at + tag(content, at) or at
            at = following if following > at else content.find(b"\xff", at + 1)
            if at < 0:
                break
            continue
        length, kind = here
        if at + length > len(content):
            break  # the last one is cut
        promised = xing(content, at, kind)
        if promised is not None or not pieces or pieces[-1].kind != kind:
            pieces.append(Part(at, kind, promised=promised))
        part = pieces[-1]
        if promised is None:
            part.frames += 1
        if part.spans and part.spans[-1][1] == at:
            part.spans[-1] = (part.spans[-1][0], at + length)
        else:
            part.spans.append((at, at + length))
        at += length
    return [part for part in pieces if part.frames or part.promised]


def pieces(content: bytes) -> list[bytes]:
    """Each part as an MP3 file of its own with a true count of frames; [] where there are none.

    A mark that promises more than is there stays: the sound is cut, and decoders see it.
    """
    return [piece(content, part) for part in parts(content)]


def piece(content: bytes, part: Part) -> bytes:
    payload = b"".join(content[start:end] for start, end in part.spans)
    if part.promised is not None and part.promised >= part.frames - SLACK:
        return payload
    if part.promised is not None:
        length, _ = frame(payload, 0) or (0, part.kind)
        return counted(payload[:length], part) + payload[length:]
    first = payload[:4]
    # the mark has the first frame's header, with a bit rate that leaves room for it
    bits = next(
        bits
        for bits in range(1, 15)
        if (frame(first[:2] + bytes([bits << 4 | first[2] & 0x0C]) + first[3:], 0) or (0,))[0]
        >= side(part.kind) + 12
    )
    header = first[:1] + bytes([first[1] | 1, bits << 4 | first[2] & 0x0C]) + first[3:]
    length = (frame(header, 0) or (0,))[0]
    return counted(header.ljust(length, b"\0"), part) + payload


def counted(mark: bytes, part: Part) -> bytes:
    place = side(part.kind)
    return mark[:place] + struct.pack(">4sII", b"Xing", 1, part.frames) + mark[place + 12 :]
