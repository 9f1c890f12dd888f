"""Readers for the two container formats that some of the sounds come in.

- OpenTTD's sound .cat file: a little-endian table of (offset, length) pairs, one per sound, then
  for each sound a Pascal string with its name and credits followed by a RIFF WAVE file.
- Qt's binary resource (.rcc): big-endian, a tree of nodes (directories and files), a table of
  UTF-16 names and a data block; files are stored raw, with zlib or with zstandard.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator


def read_cat(data: bytes) -> list[tuple[str, bytes]]:
    """(credits, WAVE file) of every sound of an OpenTTD .cat file, in its order.

    Raises ValueError where the table points outside the file.
    """
    count = (_u32le(data, 0) & 0x7FFFFFFF) // 8
    sounds = []
    for i in range(count):
        start, length = _u32le(data, 8 * i) & 0x7FFFFFFF, _u32le(data, 8 * i + 4)
        if start >= len(data):
            raise ValueError(f"sound {i} of the .cat file starts past its end")
        text = start + 1 + data[start]
        name = data[start + 1 : text].rstrip(b"\0").decode("latin-1")
        riff = data.find(b"RIFF", text, text + 16)
        first = riff if riff >= 0 else text
        sounds.append((name, data[first : first + length]))
    return sounds


def read_rcc(data: bytes) -> dict[str, bytes]:
    """Path -> contents of the files of a Qt .rcc; files packed with zstandard are left out.

    Raises ValueError where `data` is not a resource file.
    """
    if data[:4] != b"qres":
        raise ValueError("not a Qt resource file")
    version, tree, start, names = struct.unpack_from(">IIII", data, 4)
    entry = 22 if version >= 2 else 14

    def name(offset: int) -> str:
        (length,) = struct.unpack_from(">H", data, names + offset)
        first = names + offset + 6  # past the length and a hash
        return data[first : first + 2 * length].decode("utf-16-be")

    def walk(node: int, folder: str) -> Iterator[tuple[str, bytes]]:
        at = tree + node * entry
        named, flags = struct.unpack_from(">IH", data, at)
        path = f"{folder}/{name(named)}".lstrip("/") if node else ""
        if flags & 2:  # a directory: how many children, and the first of them
            children, first = struct.unpack_from(">II", data, at + 6)
            for child in range(first, first + children):
                yield from walk(child, path)
        elif not flags & 4:
            (offset,) = struct.unpack_from(">I", data, at + 10)
            (length,) = struct.unpack_from(">I", data, start + offset)
            body = data[start + offset + 4 : start + offset + 4 + length]
            yield path, zlib.decompress(body[4:]) if flags & 1 else body

    return dict(walk(0, ""))


def _u32le(data: bytes, at: int) -> int:
    return struct.unpack_from("<I", data, at)[0]
