"""Disks for scripts/torture.py: too small, without inodes, read-only, and without power.

`torture` is its Torture. Each of these returns a line for the report.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from acgd import atomic_files
from acgd.runs import folder as folders
from acgd.runs import manifest

PATIENCE = 120  # seconds for a sweep
SHUTDOWN = 0x8004587D  # ext4's ioctl: from now on nothing reaches the disk
WITHOUT_LOG = struct.pack("I", 2)  # nor does the journal: as if the power failed
HARSH = "loop,noauto_da_alloc,commit=1"  # names soon on the disk, contents only when asked for


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def mount(what: str, folder: Path, options: str, kind: str) -> bool:
    """False where that is not permitted."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", kind, "-o", options, what, folder], stderr=-3)
    return done.returncode == 0


def remount(home: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", home], check=True)


def small_disks(torture: Any, limits: list[str]) -> str:
    """Sweeps on disks that run full and then become larger, the last also read-only."""
    home = torture.home / "disk"
    for limit in limits:
        if not mount("acgd", home, limit, "tmpfs"):
            return "full and read-only disks: skipped, mounting is not permitted here"
        try:
            on_disk(torture, home, f"disk with {limit}", "No space left on device")
            remount(home, "size=64m,nr_inodes=100000")
            finish(torture, home, f"disk with {limit}, enlarged")
            if limit == limits[-1]:
                remount(home, "ro")
                before = files(home)
                on_disk(torture, home, "read-only disk", "Read-only file system", again=True)
                remount(home, "rw")
                if files(home) != before:
                    torture.faults.append("read-only disk: other files than before")
                finish(torture, home, "read-only disk, writable again")
        finally:
            subprocess.run(["umount", home], check=True)
    told = "each ended in one line and was finished"
    return f"full disks {len(limits)} (of bytes and of inodes), a read-only disk: {told}"


def on_disk(torture: Any, home: Path, name: str, says: str, again: bool = False) -> None:
    """A sweep that cannot be written ends with exit code 1 and says why; no file is torn."""
    said = torture.home / "said.txt"
    said.unlink(missing_ok=True)
    victim = torture.start(torture.home, f"outputs={home / 'outputs'}")
    if not victim.wait(PATIENCE) or victim.code != 1:
        torture.faults.append(f"{name}: exit code {victim.code}")
    text = said.read_text()
    lines = [line for line in text.splitlines() if says in line]
    if not lines or "Traceback" in text:
        torture.faults.append(f"{name}: says {text.splitlines()[-3:]}")
    with suppress(FileNotFoundError):
        torture.check(home / "outputs/main")


def finish(torture: Any, home: Path, name: str) -> None:
    victim = torture.start(torture.home, f"outputs={home / 'outputs'}")
    if not victim.wait(PATIENCE) or victim.code:
        torture.faults.append(f"{name}: exit code {victim.code}, see {victim.log}")
    torture.compare(home / "outputs/main", name)


def power_losses(torture: Any, count: int, recorded: bool = False) -> str:
    """The power fails at any moment of a sweep, or after it; what said ok is there and whole.

    On an ext4 of its own that is shut down without a flush; where mounting is not permitted, or
    if `recorded`, files that nobody brought to the disk since they were written are emptied.
    """
    finished, ways = 0, set()
    for number in range(1, count + 1):
        home = torture.home / f"power {number} ü"
        home.mkdir()
        with disk(home, recorded) as here:
            ways.add(here.name)
            outputs = f"outputs={home / 'disk' / 'outputs'}"
            victims = [
                torture.start(home, outputs, before=here.before)
                for _ in range(torture.chance.choice((1, 1, 2)))
            ]
            life = torture.seconds * torture.chance.uniform(0.1, 1.5)
            time.sleep(life + torture.chance.choice((0, 0, 1.5)))
            said = here.lose_power(victims)
            made = home / "disk" / "outputs" / "main"
            finished += look(torture, made, said, home.name)
            victim = torture.start(home, outputs)
            if not victim.wait(PATIENCE) or victim.code:
                torture.faults.append(f"{home.name}: ended with {victim.code}, see {victim.log}")
                stop([victim])
            torture.compare(made, home.name)
        told = f"\r{number} power losses, {len(torture.faults)} faults"
        print(told, end="", file=sys.stderr, flush=True)
    return (
        f"power losses {count} ({', '.join(ways)}): {finished} finished pictures held to their word"
    )


def look(torture: Any, made: Path, said: str, name: str) -> int:
    """How many runs were told to be finished, or say so themselves; each has to be whole."""
    told = {line.partition("/outputs/main/")[2].partition("/")[0] for line in said.splitlines()
            if "/images/seed" in line}  # fmt: skip
    states = {run.name: folders.state(run) for run in made.glob("*-seed*")}
    ok = {run for run, state in states.items() if state.get("status") == "ok"}
    torture.lose(told - ok, f"{name}: told to be finished, and now not")
    for run in sorted(ok):
        if fault := manifest.fault(made / run, states[run], hashes=True):
            torture.counted["torn files"] += 1
            torture.faults.append(f"torn: {name}: {run}: {fault}")
    return len(told | ok)


class Ext4:
    """A small ext4 in a file, shut down without a flush and mounted again."""

    name = "ext4 shut down"

    def __init__(self, home: Path):
        self.place, self.image = home / "disk", home / "disk.img"
        with open(self.image, "wb") as file:
            file.truncate(64 * 2**20)

    def mounted(self) -> bool:
        made = subprocess.run(["mkfs.ext4", "-q", "-F", self.image], capture_output=True)
        return made.returncode == 0 and mount(str(self.image), self.place, HARSH, "ext4")

    def before(self) -> None:
        """In a victim: nothing."""

    def lose_power(self, victims: list) -> str:
        """End the victims with their disk and bring it back; what they had said until then."""
        descriptor = os.open(self.place, os.O_RDONLY)
        said = spoken(victims)
        fcntl.ioctl(descriptor, SHUTDOWN, WITHOUT_LOG)
        os.close(descriptor)
        stop(victims)
        subprocess.run(["umount", self.place], check=True)
        if not mount(str(self.image), self.place, HARSH, "ext4"):
            raise SystemExit(f"{self.image} could not be mounted again")
        return said

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", self.place], check=True)  # a slow one may be at work
        self.image.unlink()


class Recorder:
    """Writes down what victims flush, file by file, and empties what they did not."""

    name = "files emptied that nobody flushed"

    def __init__(self, home: Path):
        self.place, self.journal = home / "disk", home / "flushed.txt"
        self.place.mkdir(exist_ok=True)
        self.journal.touch()

    def before(self) -> None:
        """In a victim: no call for the whole disk, and every fsync is noted."""
        fsync, journal = os.fsync, open(self.journal, "a", encoding="ascii")  # noqa: SIM115

        def noted(descriptor: int) -> None:
            fsync(descriptor)
            print(identity(os.fstat(descriptor)), file=journal, flush=True)

        os.fsync, atomic_files.whole_disk = noted, lambda: None

    def lose_power(self, victims: list) -> str:
        said = spoken(victims)
        stop(victims)
        flushed = set(self.journal.read_text(encoding="ascii").splitlines())
        for path in self.place.rglob("*"):
            if path.is_file() and identity(path.stat()) not in flushed:
                os.truncate(path, 0)
        return said

    def close(self) -> None:
        pass


def identity(stat: os.stat_result) -> str:
    """A file as it was written last."""
    return f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"


@contextmanager
def disk(home: Path, recorded: bool) -> Iterator[Ext4 | Recorder]:
    """A disk at home/disk whose power can be lost."""
    found: Ext4 | Recorder = Recorder(home) if recorded else Ext4(home)
    if isinstance(found, Ext4) and not found.mounted():
        found = Recorder(home)
    try:
        yield found
    finally:
        found.close()


def spoken(victims: list) -> str:
    return "".join(victim.log.read_text(errors="replace") for victim in victims[:1])


def stop(victims: list) -> None:
    for victim in victims:
        victim.kill("SIGKILL")
        victim.wait(PATIENCE)
