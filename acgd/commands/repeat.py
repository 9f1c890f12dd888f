"""Make a run again from its own record and say whether the bytes agree.

    acgd repeat outputs/main/dog-seed0-1a2b3c4d5e6f [--out DIR]

A fresh process makes it, on as many threads and in the same batch as then. Pictures, previews,
losses, captions and metrics are compared byte for byte; times and paths are left aside. Where they
differ it is told how far, and so is every version, file and device that is not what it was. Exit
code: 0 if all is the same, 1 if not. What is made again stays in DIR if one is named.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from acgd.config.explain import explain
from acgd.errors import UserError, say
from acgd.paths import HERE, command
from acgd.runs.folder import status
from acgd.runs.records import flat
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
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)  # the fresh process
    options = parser.parse_args(arguments)
    try:
        if options.make:
            return make(options.run, options.out)
        if options.out is not None:
            return max([repeat(run, options.out.absolute()) for run in options.run])
        with tempfile.TemporaryDirectory() as out:
            return max([repeat(run, Path(out)) for run in options.run])
    except (UserError, OSError) as error:
        say(explain(error))
        return 1


def repeat(run: Path, out: Path) -> int:
    """0 if the run, made again in `out`, is the same."""
    run = run.absolute()
    if status(run) != "ok":
        raise UserError(f"{run}: no finished run, there is nothing to compare with")
    then = read(run)
    batch = [run.parent / name for name in then.get("batch") or [run.name]]
    gone = [path for path in batch if not (path / "config.yaml").is_file()]
    if gone:
        say(f"made without {len(gone)} of its batch, which are gone: last bits may differ")
    again = ask([path for path in batch if path not in gone], run, out, then)
    if again is None:
        return 1
    differ = [line for name in results(run, again) if (line := difference(name, run, again))]
    changed = differences(then, read(again))
    print(f"{run.name}: ", end="")
    print(f"{len(differ)} differ" if differ else f"the same, {len(results(run, again))} files")
    print("".join(f"  {line}\n" for line in differ), end="")
    if changed:
        print("  made with something else:\n" + "\n".join(f"    {line}" for line in changed))
    return 1 if differ else 0


def ask(batch: list[Path], run: Path, out: Path, then: dict) -> Path | None:
    """Have a fresh process make the batch; the run's new folder, None where that failed."""
    root = str(HERE.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    threads = {"OMP_NUM_THREADS": str(then["threads"])} if "threads" in then else {}
    home = then.get("folder") or "."
    words = [sys.executable, "-m", "acgd", "repeat", "--make", "--out", str(out)]
    done = subprocess.run(
        [*words, *map(str, batch)],
        cwd=home if Path(home).is_dir() else None,
        env=os.environ | {"PYTHONPATH": path} | threads,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:  # it has said why
        return None
    made = [Path(line) for line in done.stdout.splitlines()[-len(batch) :]]
    return made[batch.index(run)]


def make(folders: list[Path], out: Path) -> int:
    """Make these runs together, as their configs say but in `out`; prints their new folders."""
    from acgd.pipeline import runner

    aside = {"outputs": str(out), "name": "again", "force": True, "report": False}
    aside |= {"batch_size": len(folders), "logger": {"_target_": "acgd.loggers.none.NoLogger"}}
    runs = []
    for folder in folders:
        cfg = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        runs += expand({"snapshot_every": 0, "fail_fast": False} | cfg | aside)
    runner.render(runs)
    print("\n".join(str(run.folder) for run in runs))
    return 0


def read(run: Path) -> dict:
    try:
        return json.loads((run / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


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
