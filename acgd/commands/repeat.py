"""Make a run again from its own record and say whether the bytes agree.

    acgd repeat outputs/main/dog-seed0-1a2b3c4d5e6f [--out DIR]

A fresh process makes it, on as many threads and in the same batch as then. Pictures, previews,
losses, captions and metrics are compared byte for byte; times and paths are left aside. Where they
differ it is told how far, and so is every version, file and device that is not what it was. Exit
code: 0 if all is the same, 1 if not. What is made again stays in DIR if one is named.

A run's folder may be somebody else's: of the classes that its config names only acgd's own are
used, unless you trust others: --config-dir DIR with your own parts, or --trust PACKAGE.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from acgd.config import trust as foreign
from acgd.config.compose import own_parts
from acgd.config.explain import explain
from acgd.errors import UserError, printable, say
from acgd.media import texts
from acgd.paths import HERE, command
from acgd.runs.folder import status
from acgd.runs.records import flat, parse
from acgd.runs.run import expand

RESULTS = ("images/*.png", "previews/*.png", "*.csv", "*.json")
ASIDE = ("status.json", "environment.json")
NUMBER = re.compile(r"-?\d+\.?\d*(?:[eE][-+]?\d+)?")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{command()} repeat",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, nargs="+", metavar="RUNFOLDER")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where it is made, and stays")
    parser.add_argument("--config-dir", "-cd", type=Path, metavar="DIR", help="of your own parts")
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE")
    # the fresh process; it goes where the run was made only when it has its modules
    parser.add_argument("--make", type=Path, metavar="HOME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        if options.config_dir is not None:
            own_parts(options.config_dir)
        if options.make:
            return make(options.run, options.out, options.make, options.trust)
        if options.out is not None:
            out = options.out.absolute()
            return max([repeat(run, out, options.trust) for run in options.run])
        with tempfile.TemporaryDirectory() as out:
            return max([repeat(run, Path(out), options.trust) for run in options.run])
    except (UserError, OSError) as error:
        say(explain(error))
        return 1


def repeat(run: Path, out: Path, trust: Sequence[str] = ()) -> int:
    """0 if the run, made again in `out`, is the same."""
    run = run.absolute()
    if status(run) != "ok":
        raise UserError(f"{run}: no finished run, there is nothing to compare with")
    then = read(run)
    batch = batch_of(run, then)
    gone = [path for path in batch if not (path / "config.yaml").is_file()]
    if gone:
        say(f"made without {len(gone)} of its batch, which are gone: last bits may differ")
    for path in batch:
        if path not in gone:
            config(path, trust)  # said here, before a process is started
    again = ask([path for path in batch if path not in gone], run, out, then, trust)
    if again is None:
        return 1
    differ = [line for name in results(run, again) if (line := difference(name, run, again))]
    changed = differences(then, read(again))
    whole = f"{len(differ)} differ" if differ else f"the same, {len(results(run, again))} files"
    lines = [f"{run.name}: {whole}", *(f"  {line}" for line in differ)]
    if changed:
        lines += ["  made with something else:", *(f"    {line}" for line in changed)]
    print("\n".join(map(printable, lines)))
    return 1 if differ else 0


def batch_of(run: Path, then: dict) -> list[Path]:
    """The folders of the runs that were sampled with this one, itself among them."""
    names = then.get("batch")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return [run]
    batch = [run.parent / name for name in names]
    return batch if run in batch else [run]


def ask(
    batch: list[Path], run: Path, out: Path, then: dict, trust: Sequence[str] = ()
) -> Path | None:
    """Have a fresh process make the batch; the run's new folder, None where that failed."""
    root = str(HERE.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    count = then.get("threads")
    threads = {"OMP_NUM_THREADS": str(count)} if isinstance(count, int) and count > 0 else {}
    home = then.get("folder")
    home = home if isinstance(home, str) and os.path.isdir(home) else "."
    words = [sys.executable, "-P", "-m", "acgd", "repeat", "--make", home, "--out", str(out)]
    words += [f"--trust={package}" for package in trust]
    done = subprocess.run(
        [*words, *map(str, batch)],
        env=os.environ | {"PYTHONPATH": path} | threads,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:  # it has said why
        return None
    made = [Path(line) for line in done.stdout.splitlines()[-len(batch) :]]
    return made[batch.index(run)]


def make(folders: list[Path], out: Path, home: Path, trust: Sequence[str] = ()) -> int:
    """Make these runs together, as their configs say but in `out`; prints their new folders.

    home: where they were made, which the names of their files are relative to.
    """
    from acgd.pipeline import runner

    aside = {"outputs": str(out), "name": "again", "batch_size": len(folders)}
    cfgs = [config(folder, trust) | aside for folder in folders]
    os.chdir(home)
    runs = [run for cfg in cfgs for run in expand(cfg)]
    runner.render(runs)
    print("\n".join(str(run.folder) for run in runs))
    return 0


def config(folder: Path, trust: Sequence[str] = ()) -> dict:
    """A run's config as it is to be made again; UserError names what it may not hold."""
    path = folder / "config.yaml"
    try:
        cfg = texts.tree(texts.text(path, "config.yaml"))
        if not isinstance(cfg, dict):
            raise UserError("there is no config in it")
        foreign.check(cfg | {"logger": None}, trust, how="--trust {}")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    changes = {"force": True, "report": False, "debug": False, "trust": list(trust)}
    changes |= {"logger": {"_target_": "acgd.loggers.none.NoLogger"}}
    return {"snapshot_every": 0, "fail_fast": False} | cfg | changes


def read(run: Path) -> dict:
    return parse(run / "environment.json")


def results(*runs: Path) -> list[str]:
    """Names of all files that may not differ."""
    paths = {p.relative_to(run) for run in runs for kind in RESULTS for p in run.glob(kind)}
    return sorted(str(path) for path in paths if path.name not in ASIDE)


def difference(name: str, run: Path, again: Path) -> str:
    """What differs between two files; "" where nothing does."""
    for folder, when in ((run, "made before"), (again, "made again")):
        if not (folder / name).is_file():
            return f"{name}: not there as {when}"
    before, after = (run / name).read_bytes(), (again / name).read_bytes()
    if before == after:
        return ""
    if name.endswith(".png"):
        return f"{name}: {apart(run / name, again / name)}"
    texts = before.decode(errors="replace"), after.decode(errors="replace")
    if NUMBER.sub("#", texts[0]) != NUMBER.sub("#", texts[1]):
        return f"{name}: other words"
    pairs = zip(*(map(float, NUMBER.findall(text)) for text in texts), strict=True)
    return f"{name}: numbers differ by at most {max(abs(a - b) for a, b in pairs):.3g}"


def apart(before: Path, after: Path) -> str:
    """How far two pictures are from each other."""
    first, second = (np.asarray(Image.open(path)).astype(int) for path in (before, after))
    if first.shape != second.shape:
        return f"{first.shape[1]}x{first.shape[0]}, now {second.shape[1]}x{second.shape[0]} pixels"
    if (first == second).all():
        return "the same pixels with another config written in"
    off = abs(first - second).max(axis=-1)
    return f"{(off > 0).sum()} of {off.size} pixels differ, by at most {off.max()} of 255"


def differences(then: dict, now: dict) -> list[str]:
    """What is not as it was, a line each; the command, its folder and its batch don't count."""
    before, after = flat(then), flat(now)
    names = [name for name in {**before, **after} if name not in ("command", "folder", "batch")]
    differ = [name for name in names if before.get(name) != after.get(name)]
    return [f"{name}: {before.get(name)}, now {after.get(name)}" for name in differ]
