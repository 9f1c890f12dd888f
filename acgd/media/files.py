"""What every file is asked before it is read: that it is one, how large, and what it looks like."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from acgd.errors import UserError

HEAD = 4096  # bytes looked at to say what a file is
LOOKS = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"%PDF": "a PDF",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"RIFF": "a RIFF file",
    b"version https://git-lfs": "a Git LFS pointer, not the file it points to",
    b"\x7fELF": "a program",
}


def regular(path: Path, key: str, kind: str, most: int | None = None) -> int:
    """The size in bytes of a file that can be read; UserError, naming `key`, for all else.

    Pipes, devices and folders are refused unopened: reading them might never end. kind: what it
    should be ("sound"); most: the ceiling in bytes.
    """
    try:
        status = os.stat(path)
    except PermissionError:
        raise UserError(f"{path}: may not be read (permission denied)") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: no such {kind} file ({why}); see {key}") from None
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise UserError(f"{path}: is not a file but {what}; give {key} a {kind} file")
    if not status.st_size:
        raise UserError(f"{path}: the file is empty (0 bytes)")
    if most is not None and status.st_size > most:
        raise UserError(
            f"{path}: {status.st_size / 2**20:,.0f} MiB; a {kind} file here has at most "
            f"{most / 2**20:,.0f} MiB"
        )
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: may not be read (permission denied)")
    return status.st_size


def head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD)


def looks_like(content: bytes) -> str | None:
    """What a file's first bytes say that it is, in words; None where they say nothing."""
    for mark, name in LOOKS.items():
        if content.startswith(mark):
            return name
    if not content.strip(b"\0"):
        return "nothing but zeros"
    text = content.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page (HTML)"
    if text.startswith((b"<?xml", b"<error", b"<svg")):
        return "an XML text"
    if all(byte >= 32 or byte in b"\t\r\n\f\x1b" for byte in content):
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.start < len(content) - 3:  # else a letter cut by HEAD
                return None
        return "a text"
    return None
