"""One process at a time on a run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from acgd.runs.folder import status

LOCK = ".lock"


def free(folder: Path) -> bool:
    with held([folder]) as mine:
        return mine


@contextmanager
def held(folders: list[Path]) -> Iterator[bool]:
    """Whether no other process works in these run folders, nor may while this lasts."""
    with ExitStack() as locks:
        try:
            for folder in folders:
                locks.enter_context(lock(folder))
        except Timeout:
            locks.close()
            yield False
        else:
            yield True


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """One folder's lock, or filelock's Timeout at once. A finished folder is left without one."""
    folder.mkdir(parents=True, exist_ok=True)
    own = FileLock(folder / LOCK, timeout=0)
    try:
        own.acquire()
    except NotImplementedError:  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        if status(folder) == "ok":
            open_up(folder)
        own.release()


def open_up(folder: Path) -> None:
    """A finished folder needs no lock any more, its own or one that a killed process left."""
    with suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)
