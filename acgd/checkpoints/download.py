"""One published file into the cache: from the first mirror that has it, whole and right, or not.

The bytes go to NAME.part, which stays when the connection, the program or the machine breaks off;
the next call goes on from there. NAME appears when size and sha256 are right. A file whose hash
the table does not know is recorded in the cache's recorded.json when it first arrives, and held to
that from then on. A lock beside the file keeps a second process waiting until the first is done.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from filelock import FileLock, Timeout
from tqdm import tqdm

from acgd import atomic_files
from acgd.checkpoints import verify
from acgd.checkpoints.identify import kind_of
from acgd.checkpoints.mirrors import BrokenOff, Overrun, Refused, host, opened, short
from acgd.checkpoints.registry import Published, by_hand, gigabytes
from acgd.errors import UserError

LARGEST = 20 * 10**9  # bytes of a file whose size neither the table nor its mirror knows
PROGRESS = 1 << 20  # an attempt that brought this many bytes was not in vain


@dataclass(frozen=True)
class Patience:
    tries: int = 4  # attempts in a row that bring nothing, by mirror
    wait: float = 1.0  # seconds before the second one, doubled each time
    timeout: tuple[float, float] = (15.0, 60.0)  # seconds for a connection, for the next bytes


TRANSIENT = (
    BrokenOff,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


class Wrong(Refused):
    """What it sent is another file."""


def download(row: Published, place: Path, mirrors: list[str], patience: Patience) -> str:
    """Bring `row`'s file to `place`; returns in a word or two where it came from.

    Raises UserError when no mirror had it or the disk is full. Ctrl-C leaves what has come.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with alone(place):
        if place.is_file():
            if verify.is_right(row, place):
                return "here and right" if row.sha256 else "here, as recorded when it came"
            if not row.sha256:
                return "here, but not the file that recorded.json knows; kept"
            kept = place.with_name(f"{place.name}.wrong")
            os.replace(place, kept)
            say(f"{row.name} is another file than the published one: kept as {kept}")
        faults = []
        for mirror in mirrors:
            try:
                bring(row, place, mirror, patience)
                return f"fetched from {host(mirror)}"
            except Refused as error:
                faults.append(f"{host(mirror)} {error}")
                say(f"{row.name}: {faults[-1]}")
            except OSError as error:
                why = error.strerror or error
                raise UserError(f"{place}: {why}; what has come stays") from None
    message = f"{row.name} could not be fetched ({'; '.join(faults) or 'it has no mirror'})"
    if row.by_hand:
        raise UserError(f"{message}; {by_hand(row, place)}")
    raise UserError(f"{message}; fetch it elsewhere, save it as {place}, or name a --mirror")


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Hold the file's lock, which the system takes back from a process that dies."""
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is fetching {place.name}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def bring(row: Published, place: Path, mirror: str, patience: Patience) -> None:
    """The file from one mirror; where what came before turns out wrong, from the beginning."""
    part = part_of(place)
    before = size_of(part)
    fill(row, mirror, part, patience)
    try:
        finish(row, place, mirror)
    except Wrong:
        if not before:
            raise
        say(f"{row.name}: what had come before was wrong, so from the beginning")
        fill(row, mirror, part, patience)
        finish(row, place, mirror)


def fill(row: Published, mirror: str, part: Path, patience: Patience) -> None:
    """The whole file in `part`; attempts that bring nothing are numbered, with longer waits."""
    vain, reason = 0, Exception()
    with tqdm(
        desc=row.name, total=row.size, unit="B", unit_scale=True, disable=None, leave=False
    ) as bar:
        while True:
            before = size_of(part)
            try:
                return receive(row, mirror, part, patience, bar)
            except Overrun as error:
                part.unlink(missing_ok=True)
                reason = error
            except TRANSIENT as error:
                reason = error
            except requests.RequestException as error:
                raise Refused(short(error)) from None
            vain = 0 if size_of(part) - before >= PROGRESS else vain + 1
            if vain >= patience.tries:
                raise Refused(f"{short(reason)}, {vain} times")
            time.sleep(min(patience.wait * 2 ** max(vain - 1, 0), 60))


def receive(row: Published, mirror: str, part: Path, patience: Patience, bar: tqdm) -> None:
    """One attempt: go on behind what `part` has, or begin again where that cannot be."""
    have, tag = resumable(row, mirror, part)
    if row.size is not None and have == row.size:
        return
    with opened(mirror, have, tag, patience.timeout) as stream:
        total = row.size if row.size is not None else stream.total
        if stream.total is not None and stream.total != total:
            raise Refused(f"has a file of {stream.total} bytes, where {total} are right")
        most = ceiling(row) if row.size is None else row.size
        if total is not None and total > most:
            raise Refused(f"has a file of {total} bytes, where {most} are too many")
        most = most if total is None else total
        if total is not None:
            need_room(part.parent, total - stream.start)
        memo_of(part).write_text(json.dumps({"mirror": mirror, "tag": stream.tag}))
        bar.total, bar.n = total, stream.start
        with open(part, "r+b" if part.exists() else "wb") as file:
            file.seek(stream.start)
            file.truncate()
            for chunk in stream.chunks:
                if file.tell() == 0 and (kind := kind_of(chunk)):
                    raise Refused(f"has not the file: {kind}")
                if file.tell() + len(chunk) > most:
                    file.truncate(0)
                    raise Refused(f"sends more than the {most} bytes that are right")
                file.write(chunk)
                bar.update(len(chunk))
    have = size_of(part)
    if total is not None and have < total:
        raise BrokenOff(f"it ended after {have} of {total} bytes")


def ceiling(row: Published) -> int:
    """Bytes at which a file of unknown size has gone wrong: no published one is as large."""
    return max(2 * row.about, LARGEST)


def resumable(row: Published, mirror: str, part: Path) -> tuple[int, str | None]:
    """How many bytes of `part` can stay, and the tag of the file that they are of.

    With a known hash any mirror may go on; without one only the same mirror, if its file is
    still the same.
    """
    try:
        memo = json.loads(memo_of(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        memo = {}
    memo = memo if isinstance(memo, dict) else {}
    same = memo.get("mirror") == mirror
    too_many = row.size is not None and size_of(part) > row.size
    if part.is_file() and (too_many or not (same or row.sha256)):
        part.unlink()
    return size_of(part), memo.get("tag") if same else None


def finish(row: Published, place: Path, mirror: str) -> None:
    """The whole `part` as `place`, if it is the published file; Refused if it is another."""
    part = part_of(place)
    right, digest = verify.expected(row, place), verify.sha256(part)
    if right not in (None, digest):
        part.unlink()
        memo_of(part).unlink(missing_ok=True)
        raise Wrong(f"sends another file (sha256 {digest[:12]}..., not {right[:12]}...)")
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    if row.sha256 is None:
        verify.record(row, place, digest, size_of(part), mirror)
    os.replace(part, place)
    memo_of(part).unlink(missing_ok=True)
    atomic_files.flush_one(place.parent)


def part_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.part")


def memo_of(part: Path) -> Path:
    """Beside a partial file: which mirror it came from, and the tag of the file there."""
    return part.with_name(f"{part.name}.json")


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def need_room(folder: Path, count: int) -> None:
    """UserError unless `count` more bytes fit on the disk of `folder`, which need not exist yet."""
    free = free_bytes(folder)
    if count > free:
        raise UserError(
            f"{gigabytes(count)} are wanted and {folder} has {gigabytes(free)} free: make room,"
            " or set ACGD_CACHE to a folder on a larger disk"
        )


def free_bytes(folder: Path) -> int:
    """Of the disk that a folder is on or will be on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def say(line: str) -> None:
    tqdm.write(f"acgd: {line}", file=sys.stderr)
