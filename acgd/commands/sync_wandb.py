"""Replay finished and failed runs into W&B: each once, in the order in which they ended.

    acgd sync outputs/main
    acgd sync outputs/main/sweeps/2026-01-31_12-00-00-000000 --project my-sounds

DIR is a run's folder, a sweep's, outputs/NAME or outputs. What was sent is remembered in the runs'
folders, so the same command resumes where it stopped. A W&B run has the sample's signature as
its id and its sweep as its group; sent `--again` it replaces the old one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from acgd.loggers import wandb, wandb_worker
from acgd.loggers.worker import Child
from acgd.paths import command
from acgd.runs import records as run_records

DONE = {"online": "sent", "offline": "recorded"}


def main(arguments: list[str] | None = None) -> int:
    asked = read(arguments)
    runs = ended(Path(asked.folder))
    todo = [run for run in runs if asked.again or not wandb_worker.mirrored(run, asked.mode)]
    print(f"{len(runs)} runs that ended, {len(runs) - len(todo)} of them {DONE[asked.mode]} before")
    sent, bad = replayed(todo, asked) if todo else (0, 0)
    print(f"{sent} runs {DONE[asked.mode]}, {bad} left out")
    return 0 if runs and sent == len(todo) else 1


def replayed(runs: list[Path], asked: argparse.Namespace) -> tuple[int, int]:
    """How many were sent, and how many are left out because their folders cannot be read.

    Where W&B itself does not take a run, the rest is left for another time.
    """
    child, sweeps, bad = Child(wandb.MODULE, **wandb.QUIET), groups(runs), 0
    order = {"mode": asked.mode, "project": asked.project, "job_type": "sample", "tags": asked.tag}
    order |= {"timeout": asked.timeout, "strict": True}
    for count, run in enumerate(runs):
        group = asked.group or sweeps.get(run)
        said = child.ask(order | {"folder": str(run), "group": group}, asked.timeout)
        if said.get("whose") == "folder":
            bad += 1
            print(f"left out   {said['error']}", file=sys.stderr)
        elif said:
            child.stop()
            problem = said.get("lost") or said["error"]
            print(f"W&B: {problem}; the same command resumes with {run.name}", file=sys.stderr)
            return count - bad, bad
        else:
            print(f"{count + 1}/{len(runs)}  {run.name}", flush=True)
    return len(runs) - bad, bad


def read(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"{command()} sync",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--mode", choices=("online", "offline"), default="online")
    parser.add_argument("--project", default="acgd")
    parser.add_argument("--group", help="instead of each run's sweep")
    parser.add_argument("--tag", action="append", default=[], help="one more tag for each run")
    parser.add_argument("--again", action="store_true", help="also what was sent before")
    parser.add_argument("--timeout", type=float, default=120, help="seconds a run")
    return parser.parse_args(arguments)


def ended(folder: Path) -> list[Path]:
    """The folders of finished and failed runs under `folder`, the first that ended first."""
    places = [folder]
    if not (folder / "status.json").exists() and not any(folder.glob("*/status.json")):
        places += [path for path in sorted(folder.glob("*/")) if path.name != "sweeps"]
    records = [record for place in places for record in run_records.read(place)]
    over = {
        record["folder"].absolute(): record["status"]
        for record in records
        if record["folder"] and record["status"] in ("ok", "failed")
    }
    last = {"ok": "metrics.json", "failed": "status.json"}  # what was written at the end
    return sorted(over, key=lambda run: (moment(run / last[over[run]]), run.name))


def moment(path: Path) -> int:
    """When a file was written, in ns; 0 for one that is gone, whose run is then told to be torn."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def groups(runs: list[Path]) -> dict[Path, str]:
    """Run -> the name of the sweep that made it, where one did."""
    known = {}
    for home in {run.parent for run in runs}:
        for path in sorted(home.glob("sweeps/*/*/status.json"), reverse=True):
            for run in run_records.names(run_records.parse(path)):
                known[home / run] = path.parents[1].name
    return known
