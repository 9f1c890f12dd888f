"""Whole-file writes: a file is there as it should be, or not at all."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from errno import EDQUOT, ENOSPC, EROFS
from pathlib import Path

LEFTOVER = re.compile(r"\..+\.\d+")  # the temporary name of a write that was cut off


def unwritable(error: BaseException) -> bool:
    """Whether nothing else can be written either: the disk is full, or to be read only."""
    return isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT, EROFS)


def tidy(folder: Path) -> None:
    """Take away what a killed process was writing."""
    for path in folder.rglob(".*"):
        if LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Write a whole file or none: under a temporary name beside it, then renamed.

    An OSError names the file, also where the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    data = content.encode() if isinstance(content, str) else content
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
