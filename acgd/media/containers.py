"""What a sound's container says about itself, and how far that can be believed.

Recorders that were stopped leave sizes of zero, streaming tools write placeholders, a cut file
promises what is not there. Here sizes are compared with the file, and mended in passing.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

STREAMED = 0x7FFF0000  # data sizes from here on are placeholders written by streaming tools
MOST_CHUNKS = 10_000
W64 = {"riff": b"riff\x2e\x91\xcf\x11", "data": b"data\xf3\xac\xd3\x11", "wave": b"wave"}


class Patched(io.RawIOBase):
    """A file read with some of its bytes replaced: {place: bytes}; the file itself stays."""

    def __init__(self, file: BinaryIO, patches: dict[int, bytes] | None = None):
        self.file, self.patches = file, patches or {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer) -> int:
        start, view = self.file.tell(), memoryview(buffer).cast("B")
        got = self.file.readinto(view)  # type: ignore[attr-defined] # BinaryIO lacks it
        for place, new in self.patches.items():
            for i, byte in enumerate(new):
                if start <= place + i < start + got:
                    view[place + i - start] = byte
        return got

    def close(self) -> None:
        self.file.close()
        super().close()


@dataclass
class Data:
    """Where the samples are: from `start`, `promised` bytes, as the field at `field` says."""

    start: int
    promised: int
    field: int
    packed: str  # struct's letters for that field
    extra: int = 0  # what the field counts beyond the samples


def find_data(file: BinaryIO) -> Data | None:
    """The chunk of samples of a WAV, RF64, W64, AIFF, AU or CAF file; None in other files."""
    file.seek(0)
    head = file.read(64)
    if head[:4] == b".snd" and len(head) >= 24:
        start, size = struct.unpack(">II", head[4:12])
        return Data(start, size, 8, ">I")
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return walk(file, 12, "<4sI", b"data", long_size=head[:4] == b"RF64")
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return walk(file, 12, ">4sI", b"SSND")
    if head[:4] == b"caff":
        return walk(file, 8, ">4sQ", b"data", even=False)
    if head[:8] == W64["riff"]:
        return walk(file, 40, "<16sQ", W64["data"], even=False, eights=True)
    return None


def walk(
    file: BinaryIO,
    place: int,
    packed: str,
    name: bytes,
    even: bool = True,
    long_size: bool = False,
    eights: bool = False,
) -> Data | None:
    """Go from chunk to chunk to the one called `name`.

    even: chunks begin at even places. long_size: RF64, whose ds64 chunk holds the size.
    eights: W64, whose chunks begin at multiples of 8 and whose sizes count their headers.
    """
    length, letter = struct.calcsize(packed), packed[0] + packed[-1]
    size64: tuple[int, int] | None = None
    end = file.seek(0, io.SEEK_END)
    for _ in range(MOST_CHUNKS):
        if place > end:  # as a damaged size says, perhaps further than any file reaches
            return None
        file.seek(place)
        header = file.read(length)
        if len(header) < length:
            return None
        kind, size = struct.unpack(packed, header)
        own = length if eights else 0
        if kind.startswith(name):
            if size64:
                return Data(place + length, size64[0], size64[1], "<Q")
            return Data(place + length, size - own, place + length - len_of(letter), letter, own)
        if long_size and kind == b"ds64":
            size64 = int.from_bytes(file.read(16)[8:16], "little"), place + 16
        if eights and size < length:
            return None
        place += size if eights else length + size
        place += place % 2 if even else -place % 8 if eights else 0
    return None


def len_of(letter: str) -> int:
    return struct.calcsize(letter)


def mended(file: BinaryIO, size: int) -> tuple[Patched, float]:
    """The file with a true data size, and how many times what is there its header promises.

    1.0 for whole files and for those whose header has no size to believe in.
    """
    data = find_data(file)
    file.seek(0)
    if data is None or data.start > size:
        return Patched(file), 1.0
    there = size - data.start
    if 0 < data.promised <= there:
        return Patched(file), 1.0
    patches = {data.field: struct.pack(data.packed, there + data.extra)}
    unknown = data.promised <= 0 or data.promised >= (2**62 if data.packed[-1] == "Q" else STREAMED)
    return Patched(file, patches), 1.0 if unknown or not there else data.promised / there
