"""Give acgd bad inputs and settings, N of them, and count what comes of each.

    python scripts/fuzz.py [--cases 1500] [--seed 0] [--seconds S] [--kind NAME] [--only NUMBER]

Damaged sounds, pictures, texts and tables, values of every key of conf/, overrides, odd file names,
damaged run folders and configs that somebody sent (`fuzz_cases.py`). Each is a command in a process
that is a copy (fork) of one with the small models loaded, in a folder of its own. It should end as
`ok` or as `line`: exit code 1 and lines of acgd's alone. All else is a fault:

    traceback   a traceback, or a process that died
    raw         the name of a Python exception, or a library's own words, on the terminal
    hang        no end within a minute
    silent      exit code 0 for what can't be meant, or without a word; a picture of one colour;
                another exit code without a line
    outside     a file was made, changed or taken away elsewhere than in outputs

What is faulty is done again by the command line, in a process of its own, and told. Exit code: 1 if
there is any fault. A case is made from the seed and its number: --only makes it again, and
--keep DIR leaves it there to be looked at.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: threads do not survive a fork

import numpy as np
from fuzz_cases import KINDS, SEEN, Case, case
from PIL import Image

from acgd.commands import main as cli
from acgd.paths import HERE

CLASSES = ("ok", "line", "traceback", "raw", "hang", "silent", "outside")
LIMIT = 60  # seconds
RAW = re.compile(r"debug=true shows where|\b[A-Z]\w*(Error|Exception|Warning)\b|\bobject at 0x")
OURS = re.compile(
    r"acgd: |\S+: error: |usage: |acgd \w+: error: |python run\.py \w+: error: |\s*$|W&B: "
)
BAR = re.compile(r"^.*\d+%\|.*$|^.*\b\d+it .*$", re.M)  # progress


class Ended(NamedTuple):
    code: int | None  # None: it did not end
    out: str
    err: str
    files: dict[str, tuple]  # before and after, as `state` has them
    after: dict[str, tuple]
    home: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="stop after so many")
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--only", type=int, metavar="NUMBER", action="append")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        faults = fuzz(options, Path(options.keep or scratch).absolute())
    sys.exit(1 if faults else 0)


def fuzz(options: argparse.Namespace, home: Path) -> int:
    began, counted, told = time.monotonic(), Counter(), []
    made = warm(home)
    for number in options.only or range(options.cases):
        if options.seconds and time.monotonic() - began > options.seconds:
            break
        one, ended = attempt(home, options, number, made, forked)
        verdict, why = judge(one, ended)
        if verdict not in CLASSES[:2]:
            again, real = attempt(home, options, number, made, commanded)
            here_only = f" (a copy: {verdict}, {why[-300:]})"
            verdict, why = judge(again, real)  # what counts is what a user sees
            why += here_only if verdict in CLASSES[:2] else ""
            told.append(f"{number} {one.kind} ({one.about}): {verdict}: {why}\n    {one.words}")
            print(told[-1], file=sys.stderr, flush=True)
        counted[one.kind, verdict] += 1
        if options.only:
            print(f"{number} {verdict}: {one.about}\n{one.words}\n{ended.out}{ended.err}")
    print(table(counted, time.monotonic() - began))
    return sum(count for (_, verdict), count in counted.items() if verdict not in CLASSES[:2])


def warm(home: Path) -> Path:
    """Load the models by making two pictures; their outputs, which cases damage copies of."""
    place = home / "warm"
    place.mkdir(parents=True, exist_ok=True)
    more = ["describer=keywords", "captioner=clipcap_tiny"]
    words = [*SEEN, "prompt.path=demo:dog", "seed=[0,1]", "report=true"]
    ended(place, [*words, *more, "name=all"], here)
    before = ended(place, words, here)
    if before.code:
        sys.exit(f"fuzz: this should work: {before.err}")
    shutil.rmtree(place / "here/outputs/all")
    return place / "here/outputs"


def attempt(home: Path, options, number: int, made: Path, way) -> tuple[Case, Ended]:
    """Make a case in a fresh folder and do it in a way."""
    place = home / "case"
    shutil.rmtree(place, ignore_errors=True)
    (place / "here").mkdir(parents=True)
    one = case(options.seed, number, place / "here", made, options.kind)
    return one, ended(place, one.words, way)


def ended(place: Path, words: list[str], way) -> Ended:
    """Do the words in `place`/here and see what comes of them."""
    for name in ("here", "home", "tmp"):
        (place / name).mkdir(exist_ok=True)
    before = state(place)
    with open(place / "out", "w+b") as out, open(place / "err", "w+b") as err:
        code = way(place, words, out.fileno(), err.fileno())
        texts = [text.read().decode(errors="replace") for text in rewound(out, err)]
    for name in ("out", "err"):
        (place / name).unlink()
    return Ended(code, *texts, before, state(place), place)


def rewound(*files) -> Iterator:
    for file in files:
        file.seek(0)
        yield file


def environment(place: Path) -> dict[str, str]:
    return {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp"), "OMP_NUM_THREADS": "1"} | {
        "ACGD_CACHE": str(place / "home/cache"),
        "PYTHONPATH": str(HERE.parent),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
    }


def here(place: Path, words: list[str], out: int, err: int) -> int:
    """In this process, whose memory the copies inherit."""
    from acgd.config.compose import compose
    from acgd.pipeline import runner
    from acgd.runs.run import expand

    before = os.getcwd()
    os.chdir(place / "here")
    runner.render(expand(compose(words)))
    os.chdir(before)
    return 0


def forked(place: Path, words: list[str], out: int, err: int) -> int | None:
    """In a copy of this process."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return waited(child)
    code = 70
    try:
        os.setsid()
        os.chdir(place / "here")
        os.environ |= environment(place)
        tempfile.tempdir = None
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.argv = ["acgd", *words]
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        cli.main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1 if error.code else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def waited(child: int) -> int | None:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # its own children
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def commanded(place: Path, words: list[str], out: int, err: int) -> int | None:
    """By the command line."""
    call = [sys.executable, "-m", "acgd", *words]
    environ = os.environ | environment(place)
    try:
        return subprocess.run(
            call,
            cwd=place / "here",
            env=environ,
            stdout=out,
            stderr=err,
            timeout=2 * LIMIT,
            stdin=subprocess.DEVNULL,
        ).returncode
    except subprocess.TimeoutExpired:
        return None


def state(place: Path) -> dict[str, tuple]:
    """Every file below with what changes when it does."""
    found = {}
    for root, folders, names in os.walk(place):
        for name in (*folders, *names):
            path = os.path.join(root, name)
            with suppress(FileNotFoundError):  # of a process that is ending
                stat = os.lstat(path)
                stamp = () if name in folders else (stat.st_size, stat.st_mtime_ns)
                found[os.path.relpath(path, place)] = stamp
    return found


def judge(one: Case, ended: Ended) -> tuple[str, str]:
    """A case's class and why."""
    said = BAR.sub("", ended.err.replace("\r", "\n"))
    lines = [line for line in said.splitlines() if line.strip()]
    if ended.code is None:
        return "hang", f"did not end within {LIMIT} s"
    if "Traceback" in said or ended.code < 0 or ended.code == 70:
        return "traceback", f"exit code {ended.code}: {said[-1500:]}"
    if ended.code == 2 and lines and OURS.match(lines[-1]):
        return "line", lines[-1]  # argparse, below its usage
    strange = [line for line in lines if RAW.search(quoted_out(line, one)) or not OURS.match(line)]
    if strange:
        return "raw", strange[0][:500]
    if outside := changed(ended, one.words):
        return "outside", ", ".join(outside[:3])
    if ended.code and not lines and not ended.out.startswith(("damaged", "dog-")):  # verify, repeat
        return "silent", f"exit code {ended.code} without a line"
    if ended.code:
        return "line", (lines or ended.out.splitlines())[-1]
    if one.expect == "line":
        return "silent", "this was taken"
    if not ended.out.strip() and not lines:
        return "silent", "nothing was said"
    flat = [path for path in (ended.home / "here/outputs").rglob("seed*.png") if is_flat(path)]
    return ("silent", f"{flat[0].name} has one colour") if flat else ("ok", "")


def is_flat(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return int(np.ptp(np.asarray(image))) == 0
    except (OSError, ValueError, SyntaxError):
        return False  # a case's own damage, which `verify` is for


def quoted_out(line: str, one: Case) -> str:
    """A line without what the case itself holds: "abcError" may be a file's name."""
    for word in one.words:
        line = line.replace(word.partition("=")[2] or word, "")
    return line


def changed(ended: Ended, words: list[str]) -> list[str]:
    """Files elsewhere than in outputs, which a word may name anew, that are not as they were."""
    named = [word.partition("=")[2].strip("'") for word in words if word.startswith("outputs=")]
    chosen = tuple(f"here/{folder}" for folder in named if folder)
    ours = re.compile(  # and what W&B and PyTorch lay into the temporary folder
        r"here/outputs(/|$)|home/(cache|\.config|\.cache)(/|$)|tmp/.*wandb|tmp/tmp\w+$"
        r"|tmp/torchinductor_\w+$"
    )
    names = ended.files.keys() | ended.after.keys()
    names = {name for name in names if not ours.match(name) and name not in ("out", "err")}
    names = {name for name in names if not name.startswith(chosen)}
    return sorted(name for name in names if ended.files.get(name) != ended.after.get(name))


def table(counted: Counter, seconds: float) -> str:
    kinds = [kind for kind in KINDS if any(one == kind for one, _ in counted)]
    rows = [["", *CLASSES, "all"]]
    for kind in [*kinds, "all"]:
        own = [
            sum(
                n
                for (one, verdict), n in counted.items()
                if verdict == name and kind in (one, "all")
            )
            for name in CLASSES
        ]
        rows.append([kind, *map(str, own), str(sum(own))])
    text = "\n".join("".join(f"{cell:>10}" for cell in row) for row in rows)
    return f"{text}\n{counted.total()} cases in {seconds:.0f} s"


if __name__ == "__main__":
    main()
