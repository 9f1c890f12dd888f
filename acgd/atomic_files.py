"""Whole-file writes: a file is there as it should be, or not at all, and stays when power fails.

`write` renames a whole file into place. Renaming alone survives a killed process, not a lost power
supply: `flush` brings everything in some folders, their own names included, to the disk.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from errno import EDQUOT, EINVAL, ENOSPC, EROFS
from functools import cache
from pathlib import Path

LEFTOVER = re.compile(r"\..+\.\d+\.acgd")  # the temporary name of a write that was cut off
AT_ONCE = 16  # files flushed at a time: a journal takes them in one go


def unwritable(error: BaseException) -> bool:
    """Whether nothing else can be written either: the disk is full, or to be read only."""
    return isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT, EROFS)


def tidy(folder: Path) -> None:
    """Take away what a killed process was writing; nothing that has another's name."""
    for path in folder.rglob(".*.acgd"):
        if LEFTOVER.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def temporary_name(path: Path, mark: str = "") -> Path:
    return path.with_name(f".{path.name}{mark}.{os.getpid()}.acgd")


def stage(path: Path, content: str | bytes, mark: str = "") -> Path:
    """Write what is to become `path` under a temporary name beside it, which is returned.

    `mark` tells two of one path apart. An OSError names the file, also where the disk is full.
    """
    temporary = temporary_name(path, mark)
    data = content.encode() if isinstance(content, str) else content
    try:
        temporary.write_bytes(data)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise named(error, path) from None
    return temporary


def commit(temporary: Path, path: Path) -> None:
    """Rename what was staged into place."""
    try:
        os.replace(temporary, path)
    except OSError as error:
        raise named(error, path) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Write a whole file or none: under a temporary name beside it, then renamed."""
    commit(stage(path, content), path)


def named(error: OSError, path: Path) -> OSError:
    if error.errno is None or error.filename:
        return error
    return OSError(error.errno, error.strerror, str(path))


def flush(folders: Iterable[Path]) -> None:
    """Bring all that is in these folders, and their names in the folders above, to the disk.

    One call for the whole file system where there is such a call (Linux), else file by file.
    Raises the OSError of what could not be written.
    """
    folders = [Path(folder) for folder in folders]
    if (whole := whole_disk()) is None:
        return flush_each(folders)
    for folder in {folder.stat().st_dev: folder for folder in folders}.values():
        with opened(folder) as descriptor:
            whole(descriptor)


def flush_each(folders: Iterable[Path]) -> None:
    """Files first, then the folders that name them, at last the three folders above."""
    files, within, above = [], [], []
    for folder in folders:
        for place, _, names in os.walk(folder):
            within.append(Path(place))
            files += [Path(place) / name for name in names]
        above += list(folder.absolute().parents)[:3]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for level in (files, within, dict.fromkeys(above)):
            list(threads.map(flush_one, level))


def flush_one(path: Path) -> None:
    try:
        with opened(path) as descriptor:
            os.fsync(descriptor)
    except FileNotFoundError:
        pass  # another process's temporary file, renamed by now
    except OSError as error:  # what cannot be opened or flushed here at all: Windows' folders
        if not (path.is_dir() and (error.errno == EINVAL or isinstance(error, PermissionError))):
            raise


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A file's or folder's descriptor, for reading."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@cache
def whole_disk() -> Callable[[int], None] | None:
    """syncfs, which flushes the file system of a descriptor; None where there is none.

    Kernels before 5.8 do not say there what could not be written; every file is asked then.
    """
    if not sys.platform.startswith("linux") or kernel() < (5, 8):
        return None
    try:
        call = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None

    def whole(descriptor: int) -> None:
        if call(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return whole


def kernel() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
