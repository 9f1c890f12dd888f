"""Say of every run in a folder whether it is still what it was when it was finished.

    acgd verify outputs/main

Reads every byte and compares it with the hashes that status.json holds. A line for each run that
is damaged, one for all that were never finished; exit code 1 if a finished run is damaged or says
nothing of itself any more, else 0.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from acgd.errors import UserError, say
from acgd.runs import folder as folders
from acgd.runs import manifest
from acgd.runs.records import NAME

UNFINISHED = ("running", "failed", "interrupted")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("acgd verify", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="a run, outputs/NAME or outputs")
    try:
        return verify(parser.parse_args(arguments).folder)
    except UserError as error:
        say(str(error))
        return 1


def verify(folder: Path) -> int:
    """Print what is found; 1 if a run is damaged. UserError where there is no run."""
    counted: Counter[str] = Counter()
    for run in find(folder):
        state = folders.state(run)
        status = state.get("status")
        if status in UNFINISHED:
            counted[status] += 1
            continue
        whole = "status.json is gone or unreadable"
        fault = manifest.fault(run, state, hashes=True) if status == "ok" else whole
        counted["damaged" if fault else "whole"] += 1
        if fault:
            print(f"damaged    {run}: {fault}")
    if not counted:
        raise UserError(f"{folder}: there are no runs in it, it should be outputs/NAME")
    print(f"{counted.total()} runs: " + ", ".join(f"{n} {what}" for what, n in counted.items()))
    if counted["damaged"]:
        print("take the damaged folders away and the same command makes them again")
    return 1 if counted["damaged"] else 0


def find(folder: Path) -> Iterator[Path]:
    """The run folders in a folder, down to that of all outputs, in order; the folder may be one."""
    if NAME.fullmatch(folder.absolute().name):
        yield folder
        return
    levels = [path for pattern in ("*", "*/*") for path in sorted(folder.glob(pattern))]
    yield from (path for path in levels if NAME.fullmatch(path.name) and path.is_dir())


if __name__ == "__main__":
    sys.exit(main())
