"""More for scripts/torture.py: output that nobody reads, damaged runs, a peer that is stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from acgd.paths import HERE
from acgd.pipeline import batching
from acgd.runs import folder as folders
from acgd.runs import manifest

PATIENCE = 120  # seconds for a sweep
PLACES = {
    "a pipe that nobody reads": "{} 2>&1 | true; exit ${{PIPESTATUS[0]}}",
    "a full disk": "{} > /dev/full 2> /dev/full",
    "closed": "{} >&- 2>&-",
    "no letters": "PYTHONIOENCODING=ascii LC_ALL=C PYTHONUTF8=0 {} > /dev/null 2>&1",
}


def unprintable(torture: Any) -> str:
    """Whatever cannot be shown, the sweep is made and the exit code is 0."""
    call = " ".join(f"'{word}'" for word in (sys.executable, HERE.parent / "run.py"))
    call += "".join(f" '{word}'" for word in torture.arguments)
    for place, line in PLACES.items():
        home = torture.home / f"unprintable, {place}"
        home.mkdir()
        done = subprocess.run(["bash", "-c", line.format(call)], cwd=home, timeout=10 * PATIENCE)
        if done.returncode:
            torture.faults.append(f"{home.name}: exit code {done.returncode}")
        torture.compare(home / "outputs/main", home.name)
    return f"output that cannot be shown, {len(PLACES)} ways: all finished with exit code 0"


def damaged(torture: Any, count: int) -> str:
    """Finished sweeps with files of a batch cut, emptied or gone: it is made again, no other."""
    hit = 0
    for number in range(1, count + 1):
        home = torture.home / f"damaged {number}"
        made = home / "outputs/main"
        shutil.copytree(torture.good, made)
        broken = {damage(torture, made / name) for name in batch(torture, made)}
        hit += len(broken)
        whole = {run: pictures(made / run) for run in {r.name for r in runs(made)} - broken}
        victim = torture.start(home)
        if not victim.wait(PATIENCE) or victim.code:
            torture.faults.append(f"{home.name}: ended with {victim.code}, see {victim.log}")
        for run in sorted(broken):
            if manifest.fault(made / run, folders.state(made / run), hashes=True):
                torture.counted["wrongly made before"] += 1
                torture.faults.append(f"{home.name}: {run} is damaged and was made before")
        for run, before in whole.items():
            if pictures(made / run) != before:
                torture.faults.append(f"{home.name}: {run} was whole and was made again")
        torture.compare(made, home.name)
    wrong = torture.counted["wrongly made before"]
    return f"damaged sweeps {count} with {hit} damaged runs: wrongly made before {wrong}"


def batch(torture: Any, made: Path) -> list[str]:
    """The runs of one batch: those of a part of it would differ in their last bits."""
    some = torture.chance.choice(runs(made))
    return json.loads((some / "environment.json").read_text(encoding="utf-8"))["batch"]


def runs(made: Path) -> list[Path]:
    return sorted(path for path in made.glob("*-seed*") if path.is_dir())


def pictures(run: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in run.rglob("*.png")}


def damage(torture: Any, run: Path) -> str:
    """Do something to one run's files; its name."""
    paths = [run / name for name in manifest.take(run)] + [run / "status.json"]
    way, path = torture.chance.choice(("cut", "empty", "gone", "all empty")), None
    path = torture.chance.choice(paths)
    if way == "all empty":
        for one in paths:
            os.truncate(one, 0)
    elif way == "gone":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2 if way == "cut" else 0)
    return run.name


def stopped_peer(torture: Any) -> str:
    """A second process makes the rest and says whom to wake; woken, the first finishes."""
    batching.STOPPED_FOR, home = 1.0, torture.home / "stopped peer"
    home.mkdir()
    first = torture.start(home)
    time.sleep(torture.seconds * torture.chance.uniform(0.2, 0.5))
    os.kill(first.pid, signal.SIGSTOP)
    second = torture.start(home)
    if not second.wait(PATIENCE) or second.code not in (0, 1):
        torture.faults.append(f"{home.name}: the second ended with {second.code}")
    says = f"kill -CONT {first.pid}" in second.log.read_text(errors="replace")
    if second.code == 1 and not says:
        torture.faults.append(f"{home.name}: nobody said whom to wake, see {second.log}")
    os.kill(first.pid, signal.SIGCONT)
    if not first.wait(PATIENCE) or first.code:
        torture.faults.append(f"{home.name}: the woken one ended with {first.code}")
    torture.compare(home / "outputs/main", home.name)
    return "a stopped peer: " + ("was named, and finished its share" if says else "held nothing")
