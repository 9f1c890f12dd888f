"""One process at a time on a run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from acgd.runs.folder import status

LOCK = ".lock"


def stopped_holder(folder: Path) -> int | None:
    """The process that holds a folder's lock and is stopped (Ctrl-Z, SIGSTOP), where Linux tells.

    None for one that works, on another machine, or that nobody knows of.
    """
    try:
        place = f":{(folder / LOCK).stat().st_ino}"
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
        holders = [line.split() for line in lines if "FLOCK" in line]
        pid = next(int(words[4]) for words in holders if words[5].endswith(place))
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0]
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return pid if state in "Tt" else None


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
    file_lock = FileLock(folder / LOCK, timeout=0)
    try:
        file_lock.acquire()
    except NotImplementedError:  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        if status(folder) == "ok":
            open_up(folder)
        file_lock.release()


def open_up(folder: Path) -> None:
    """A finished folder needs no lock any more, its own or one that a killed process left."""
    with suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)
