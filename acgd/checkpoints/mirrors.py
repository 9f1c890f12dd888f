"""Where a published file is fetched from: a web address, a file:// address or a path."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import requests

CHUNK = 1 << 16  # bytes at once
WORTH_ANOTHER_TRY = (408, 425, 429)  # of the 4xx answers; and all of 500 on


class Refused(Exception):
    """This mirror has not the file; another may."""


class BrokenOff(Exception):
    """It stopped on the way; the same mirror may go on."""


class Overrun(BrokenOff):
    """The mirror's file is shorter than what came before: that has to go."""


class Stream(NamedTuple):
    """What a mirror answers: bytes from `start` on, of `total` if it says so."""

    start: int  # at most where it was asked to begin; 0 from a server that knows no ranges
    total: int | None
    tag: str | None  # changes with the file
    chunks: Iterator[bytes]


@contextmanager
def opened(
    mirror: str, start: int, tag: str | None, timeout: tuple[float, float]
) -> Iterator[Stream]:
    """A mirror's bytes from `start` on, if its file still has this tag, else from the beginning.

    timeout: seconds for a connection and for the next bytes. Raises Refused, BrokenOff and
    requests' exceptions.
    """
    parts = urlsplit(mirror)
    if parts.scheme in ("http", "https"):
        with over_http(mirror, start, tag, timeout) as stream:
            yield stream
        return
    path = Path(unquote(parts.path) if parts.scheme == "file" else mirror).expanduser()
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device never ends
            raise Refused(f"{path}: no regular file")
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from None
    with file:
        total = os.fstat(file.fileno()).st_size
        if start > total:
            raise Overrun(f"{path} has only {total} bytes")
        file.seek(start)
        yield Stream(start, total, None, iter(lambda: file.read(CHUNK), b""))


@contextmanager
def over_http(
    url: str, start: int, tag: str | None, timeout: tuple[float, float]
) -> Iterator[Stream]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "acgd"}
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": tag} if tag else {})
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
        code, heads = answer.status_code, answer.headers
        if code >= 500 or code in WORTH_ANOTHER_TRY:
            raise BrokenOff(f"answers {code} {answer.reason}")
        span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", heads.get("Content-Range", ""))
        if code == 416 and start:
            if not span or span[2] != str(start):
                raise Overrun("has fewer bytes than came before")
            yield Stream(start, start, None, iter(()))
            return
        if code not in (200, 206):
            raise Refused(f"answers {code} {answer.reason}")
        if heads.get("Content-Type", "").startswith("text/html"):
            raise Refused("answers with a web page, not with the file")
        length = heads.get("Content-Length", "")
        begin, total = 0, int(length) if length.isdigit() else None
        if code == 206:
            if not span or not span[1] or int(span[1]) > start:
                raise Refused("does not say which bytes it sends")
            begin, total = int(span[1]), int(span[2]) if span[2] != "*" else None
        etag = heads.get("ETag", "")
        strong = etag if etag and not etag.startswith("W/") else None
        yield Stream(begin, total, strong, answer.iter_content(CHUNK))


def host(mirror: str) -> str:
    """The server's name, or the path."""
    return urlsplit(mirror).hostname or mirror


def short(error: BaseException) -> str:
    """What went wrong on the line, in a few words."""
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "broken off"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return str(error).splitlines()[0][:100]
