"""Ogg files page by page (RFC 3533): links of a chain, FLAC inside, whether the end is there."""

from __future__ import annotations

from collections.abc import Iterator

BEGIN, END = 2, 4  # flags of a stream's first and last page
FLAC = b"\x7fFLAC"


def pages(content: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(start, end, flags, body) of each whole page."""
    at = content.find(b"OggS")
    while at >= 0 and at + 27 <= len(content):
        table = content[at + 27 : at + 27 + content[at + 26]]
        body = at + 27 + len(table)
        end = body + sum(table)
        if end > len(content):
            return
        yield at, end, content[at + 5], content[body:end]
        at = content.find(b"OggS", end)


def pieces(content: bytes) -> tuple[list[bytes], bool]:
    """Each link of a chain as a file of its own, and whether the last one has its end.

    A FLAC stream comes out as a FLAC file.
    """
    links: list[list[tuple[int, int, int, bytes]]] = []
    before = 0
    for page in pages(content):
        if page[2] & BEGIN and not (links and before & BEGIN):
            links.append([])
        if links:
            links[-1].append(page)
        before = page[2]
    whole = bool(links) and bool(links[-1][-1][2] & END)
    return [link(content, own) for own in links], whole


def link(content: bytes, pages: list[tuple[int, int, int, bytes]]) -> bytes:
    if pages[0][3].startswith(FLAC):
        # mark, two bytes of version, two that count the headers; then the file as it is
        return b"".join(body for _, _, _, body in pages)[len(FLAC) + 4 :]
    return content[pages[0][0] : pages[-1][1]]
