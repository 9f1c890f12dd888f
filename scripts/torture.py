"""Kill sweeps N times at random moments, finish them, and compare all bytes with an untouched one.

    python scripts/torture.py 200 [--power 20] [--sounds] [--seed S] [KEY=VALUE ...]

Victims are real processes: copies (fork) of one that has the models loaded, so that most of their
life is work, and every twelfth a `python run.py` of its own. They get SIGKILL, SIGTERM or SIGINT at
a random moment, or SIGKILL in the midst of their n-th write, half of the file on disk; half of
the time two of them work on the same folder. Between kills every file is read: it has to be whole,
and what was finished has to be finished still. Clocks jump and files get times in no order. Then
disks that run out of bytes or inodes, one that is read-only, power that fails (where mounting is
permitted; elsewhere what was not flushed is emptied), output that nobody can read, finished runs
that are damaged, and a peer that is stopped. Exit code: 0 if nothing was torn, lost or different.
--sounds: a sweep of sounds with describer, captioner, page and W&B in place of words.

KEY=VALUE go to the sweeps (other weights, more steps). One core is used for each of two processes.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from PIL import Image
from torture_disks import power_losses, small_disks
from torture_ends import damaged, stopped_peer, unprintable

from acgd import atomic_files
from acgd.commands import main as cli
from acgd.commands.repeat import results
from acgd.config.compose import compose
from acgd.errors import one_line
from acgd.paths import HERE
from acgd.pipeline import snapshot
from acgd.runs import environment
from acgd.runs import folder as folders
from acgd.runs.run import resolve

SWEEP = "-m experiment=smoke prompt=text prompt.text=dog sampler=ddpm,plms,dpmpp"
SWEEP += " sampler.steps=4 guidance.clip=300,1000 seed=0,1 batch_size=3 twin=true enlarge_to=0"
SWEEP += " preview_every=2 snapshot_every=1 report=false device=cpu"
SOUNDS = "-m experiment=smoke prompt.path=demo:dog,demo:horse sampler=ddim,plms sampler.steps=4"
SOUNDS += (
    " seed=0,1 batch_size=2 describer=keywords captioner=clipcap_tiny logger=wandb report=true"
)
SOUNDS += " preview_every=2 snapshot_every=1 device=cpu"
MADE_LATER = ("report", "wandb/", "animation")  # of what is finished: pages and mirrors
SIGNALS = {"SIGKILL": (-9,), "SIGTERM": (143, -15, 0), "SIGINT": (130, -2, 0)}
WAYS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT")
PATIENCE = 120  # seconds for a process to end after it was told to
KILLS_A_ROUND = 12
RUN = str(HERE.parent / "run.py")


class Victim:
    """A process that makes the sweep in a folder, killed in its own way or left to end."""

    def __init__(
        self,
        home: Path,
        arguments: list[str],
        own: bool = False,
        write: int = 0,
        before: Callable[[], None] = lambda: None,
    ):
        """`own`: python run.py instead of a copy; `write`: end in the midst of that write;
        `before`: what a copy does first."""
        self.log, self.code, self.killed, self.own = home / "said.txt", None, "", None
        with open(self.log, "ab") as said:
            if own:
                command = [sys.executable, RUN, *arguments]
                self.own = subprocess.Popen(command, cwd=home, stdout=said, stderr=said)
                self.pid = self.own.pid
            else:
                self.pid = os.fork() or copy(home, arguments, said.fileno(), write, before)

    def ended(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def kill(self, name: str) -> None:
        if not self.ended():
            self.killed = name
            os.kill(self.pid, getattr(signal, name))

    def wait(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < end:
            time.sleep(0.005)
        return self.ended()


def copy(
    home: Path, arguments: list[str], said: int, write: int, before: Callable[[], None]
) -> None:
    """The life of a copied process; never returns."""
    code = 1
    try:
        os.dup2(said, 1), os.dup2(said, 2)
        sys.stdout.reconfigure(line_buffering=True)
        os.chdir(home)
        before()
        sys.argv = ["run.py", *arguments]
        if write:
            end_in(write)
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    except KeyboardInterrupt:
        code = 130
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def jumping_clock() -> None:
    """The wall clock goes back or ahead by years from one look to the next."""
    right, chance = time.time, random.Random(os.getpid())
    time.time = lambda: right() + chance.choice((-3e8, -60, 0, 3e7))


def other_times(made: Path, chance: random.Random) -> None:
    """What was written at a wrong time: files get times in no order."""
    for path in made.rglob("*"):
        with suppress(OSError):
            os.utime(path, (then := chance.uniform(1e8, 4e9), then))


def end_in(count: int) -> None:
    """End this process in its count-th write: half-way through the file, or before its renaming."""
    numbers, write_bytes, link = itertools.count(1), Path.write_bytes, os.link

    def write(path: Path, data: bytes) -> int:
        last = next(numbers) == count
        written = write_bytes(path, data[: len(data) // 2] if last and count % 2 else data)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    def second_name(source: Path, path: Path) -> None:
        link(source, path)
        if next(numbers) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    Path.write_bytes, os.link = write, second_name


class Torture:
    def __init__(self, kills: int, seed: int, extra: list[str], home: Path, sweep: str = SWEEP):
        self.kills, self.home = kills, home
        self.chance, self.counted = random.Random(seed), Counter()
        self.faults: list[str] = []
        words = {word.partition("=")[0]: word for word in [*sweep.split(), *extra]}
        self.arguments = list(words.values())

    def start(self, home: Path, *more: str, **how: Any) -> Victim:
        return Victim(home, [*self.arguments, *more], **how)

    def prepare(self) -> None:
        """The untouched sweep, by a process of its own, and how long a copy takes for one."""
        self.good = self.untouched("untouched", own=True)
        warm(self.arguments)
        began = time.monotonic()
        copied = self.untouched("copied", own=False)
        self.seconds = time.monotonic() - began
        self.compare(copied, "copied")
        self.files = sum(1 for path in copied.rglob("*") if path.is_file())

    def untouched(self, name: str, own: bool) -> Path:
        (self.home / name).mkdir()
        victim = Victim(self.home / name, self.arguments, own)
        if not victim.wait(10 * PATIENCE) or victim.code:
            raise SystemExit(f"the untouched sweep failed:\n{victim.log.read_text()}")
        return self.home / name / "outputs/main"

    def run(self) -> None:
        while self.counted["kills"] < self.kills:
            self.counted["rounds"] += 1
            self.round(self.home / f"rün {self.counted['rounds']} 🎧")
            told = f"{self.counted['kills']} kills, {len(self.faults)} faults"
            print(f"\r{told}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)

    def round(self, home: Path) -> None:
        """Kill sweeps over one folder until they were finished, or often enough; finish them."""
        home.mkdir()
        made, finished, cheated = home / "outputs/main", set(), 0
        wanted = min(KILLS_A_ROUND, self.kills - self.counted["kills"])
        while cheated < wanted and len(finished) < len(runs(self.good)):
            cheated += self.attack(home, 1 - len(finished) / len(runs(self.good)))
            self.check(made)
            if self.chance.random() < 0.3:
                other_times(made, self.chance)
            now = {run for run in runs(made) if folders.status(made / run) == "ok"}
            self.lose(finished - now, f"{home.name}: finished before, now not")
            finished = now
        last = [Victim(home, self.arguments) for _ in range(self.chance.choice((1, 2)))]
        for victim in last:
            if not victim.wait(PATIENCE) or victim.code:
                self.faults.append(f"{home.name}: ended with {victim.code}, see {victim.log}")
        self.compare(made, home.name)

    def attack(self, home: Path, left: float) -> int:
        """One or two processes at once, each ended in its own way; how many were killed.

        `left`: the share of the sweep that is still to be made.
        """
        victims = {}
        for _ in range(self.chance.choice((1, 2))):
            own = self.chance.random() < 1 / 12
            write = 0 if own or self.chance.random() < 0.6 else self.some_write(left)
            life = self.chance.uniform(0, self.seconds * (0.15 + 0.3 * left)) + 4 * own
            clock = jumping_clock if self.chance.random() < 0.3 else lambda: None
            victim = Victim(home, self.arguments, own, write, clock)
            self.counted["under a jumping clock"] += clock is jumping_clock
            victims[victim] = time.monotonic() + (PATIENCE if write else life)
        while not all(victim.ended() for victim in victims):
            for victim, end in victims.items():
                if time.monotonic() > end and not victim.ended():
                    self.end(victim, self.chance.choice(WAYS))
            time.sleep(0.003)
        killed = [victim for victim in victims if victim.code]
        for victim in killed:
            self.note(victim, len(victims))
        return len(killed)

    def some_write(self, left: float) -> int:
        return self.chance.randint(1, max(2, int(self.files * left * 0.7)))

    def end(self, victim: Victim, name: str) -> None:
        victim.kill(name)
        if not victim.wait(PATIENCE):
            self.faults.append(f"{name} did not end it, see {victim.log}")
            victim.kill("SIGKILL"), victim.wait(PATIENCE)
        elif victim.code not in SIGNALS[name]:
            self.faults.append(f"{name}, exit code {victim.code}, see {victim.log}")

    def note(self, victim: Victim, together: int) -> None:
        if not victim.killed and victim.code != -9:
            self.faults.append(f"ended by itself with {victim.code}, see {victim.log}")
        self.counted.update(["kills", victim.killed or "SIGKILL"])
        self.counted["in the midst of a write"] += not victim.killed
        self.counted["with a second process at work"] += together > 1
        self.counted["of a python run.py"] += victim.own is not None

    def check(self, made: Path) -> None:
        """Every file that does not have a temporary name is whole."""
        for path in made.rglob("*"):
            if path.is_file() and not atomic_files.LEFTOVER.fullmatch(path.name):
                try:
                    whole(path)
                except FileNotFoundError:
                    raise
                except Exception as error:
                    self.counted["torn files"] += 1
                    self.faults.append(f"torn: {path}: {one_line(error)}")

    def compare(self, made: Path, name: str) -> None:
        """After the end: the same runs, all finished, with the same bytes and nothing left over."""
        self.check(made)
        self.lose(runs(self.good) - runs(made), f"{name}: not there")
        for run in sorted(runs(self.good) & runs(made)):
            if folders.status(made / run) != "ok":
                self.lose({run}, f"{name}: {folders.status(made / run)}")
            for file in results(self.good / run, made / run):
                pair = [(folder / run / file) for folder in (self.good, made)]
                if not all(p.is_file() for p in pair) or len({p.read_bytes() for p in pair}) > 1:
                    self.counted["differing pictures"] += file.startswith(("images", "previews"))
                    self.faults.append(f"{name}: {run}/{file} differs")
            extra = files(made / run) - files(self.good / run)
            extra = {name for name in extra if not name.startswith(MADE_LATER)}
            self.faults += [f"{name}: {run}/{file} is left over" for file in sorted(extra)]
            if "starts anew" in (made / run / "log.txt").read_text():
                self.lose({run}, f"{name}: began anew, see log.txt")

    def lose(self, runs: set[str], why: str) -> None:
        self.counted["lost runs"] += len(runs)
        self.faults += [f"lost: {run}: {why}" for run in sorted(runs)]

    def report(self) -> int:
        c = self.counted
        print(f"kills {c['kills']}: " + ", ".join(f"{c[name]} {name}" for name in SIGNALS))
        ways = ("in the midst of a write", "with a second process at work", "of a python run.py")
        ways += ("under a jumping clock",)
        print("  " + ", ".join(f"{c[way]} {way}" for way in ways) + f"; {c['rounds']} sweeps")
        for name in ("torn files", "lost runs", "differing pictures"):
            print(f"{name} {c[name]}")
        print(f"other faults {len(self.faults) - c['torn files'] - c['lost runs']}")
        print("\n".join(self.faults))
        return 1 if self.faults else 0


def warm(arguments: list[str]) -> None:
    """Load the models that copies of this process find loaded."""
    torch.set_num_threads(1)
    plain = [one.split(",")[0] for one in arguments if one != "-m"]
    cfg = compose(plain)
    from acgd.pipeline import captioning, sampling, scoring  # noqa: F401
    from acgd.pipeline.models import Models

    models = Models(resolve(cfg))
    for view in filter(None, (models.by_encoder, models.by_judge)):
        view.embeds  # noqa: B018 (encoded once)
    environment.describe(resolve(cfg), models.device, models.precision)


def runs(made: Path) -> set[str]:
    return {path.name for path in made.glob("*-seed*") if path.is_dir()}


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


def whole(path: Path) -> None:
    """Raises if a file is not what its name says."""
    if path.suffix == ".png":
        Image.open(path).load()
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".yaml":
        OmegaConf.load(path)
    elif path.suffix == ".csv":
        text = path.read_text(encoding="utf-8")
        rows = list(csv.reader(text.splitlines()))
        if not text.endswith("\n") or len({len(row) for row in rows}) != 1:
            raise ValueError("rows are cut off")
    elif path.name == folders.SNAPSHOT:
        snapshot.load(path, [])


def main() -> int:
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kills", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="another one, other moments")
    parser.add_argument("--disks", type=int, default=6, metavar="N", help="small disks to fill")
    parser.add_argument("--power", type=int, default=20, metavar="N", help="power losses")
    parser.add_argument("--recorded", action="store_true", help="power losses without a disk")
    parser.add_argument("--damaged", type=int, default=4, metavar="N", help="damaged sweeps")
    parser.add_argument("--ends", action=argparse.BooleanOptionalAction, default=True,
                        help="output that cannot be shown, a stopped peer")  # fmt: skip
    parser.add_argument("--sounds", action="store_true", help="with all that a sound brings along")
    parser.add_argument("given", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where all is made, and stays")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(options.keep or temporary).absolute()
        home.mkdir(parents=True, exist_ok=True)
        sweep = SOUNDS if options.sounds else SWEEP
        torture = Torture(options.kills, options.seed, options.given, home, sweep)
        torture.prepare()
        torture.run()
        lines = hardships(torture, options)
        code = torture.report()
        print("\n".join(lines))
    return code


def hardships(torture: Torture, options: argparse.Namespace) -> list[str]:
    """What else may happen to a sweep, a line for each kind."""
    paths = [path for path in torture.good.rglob("*") if path.is_file()]
    used = sum(path.stat().st_size for path in paths) / 1000
    limits = [f"size={int(used * part) + 1}k" for part in (0.15, 0.4, 0.65, 0.9)]
    limits = [f"nr_inodes={int(len(paths) * part) + 3}" for part in (0.2, 0.7)] + limits
    lines = []
    if options.disks:
        lines.append(small_disks(torture, limits[: options.disks]))
    if options.power:
        lines.append(power_losses(torture, options.power, options.recorded))
    if options.damaged:
        lines.append(damaged(torture, options.damaged))
    if options.ends:
        lines += [unprintable(torture), stopped_peer(torture)]
    return lines


if __name__ == "__main__":
    sys.exit(main())
