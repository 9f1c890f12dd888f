"""W&B as a mirror of finished run folders, one W&B run for each sample.

A child process (`acgd.loggers.wandb_worker`) does it while the next batch is sampled. Whatever
happens to it (no network, no key, a crash), the run is complete on disk and the sweep continues
with one line; what is missing is replayed later, by the command that syncs a folder.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acgd.errors import UserError
from acgd.loggers.worker import Child
from acgd.paths import command

MODES = ("offline", "online")
MODULE = "acgd.loggers.wandb_worker"
QUIET = {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}


class Desk:
    """Takes orders and hands them to the child, in a thread, one after the other."""

    def __init__(self):
        self.orders: queue.Queue[tuple[dict, float]] = queue.Queue()
        self.problem, self.told = "", False
        self.child: Child | None = None
        try:
            self.child = Child(MODULE, **QUIET)
        except OSError as error:
            self.problem = str(error)
        threading.Thread(target=self.work, daemon=True).start()

    def work(self) -> None:
        child = self.child
        while True:
            order, timeout = self.orders.get()
            if child is not None:
                answer = child.ask(order, timeout)
                child = None if "lost" in answer else child
                self.problem = self.problem or answer.get("lost") or answer.get("error", "")
            self.orders.task_done()

    def wait(self) -> None:
        """Until every order was obeyed or given up; the first problem is told, once a process."""
        self.orders.join()
        if self.problem and not self.told:
            self.told = True
            later = f"the runs' folders hold everything, {command()} sync sends it later"
            print(f"acgd: W&B: {self.problem}; {later}", file=sys.stderr)


_desk: Desk | None = None  # one for all that this process makes


def desk() -> Desk:
    global _desk
    _desk = _desk or Desk()
    return _desk


class WandB:
    """`mode`: offline (upload later) or online; `timeout` in seconds a run.

    group: null for the sweep's name, outside a sweep the config's `name`. tags: besides the
    config's `name`, the sampler and the kind of prompt.
    """

    def __init__(
        self,
        mode: str = "offline",
        project: str = "acgd",
        group: str | None = None,
        job_type: str = "sample",
        tags: Sequence[str] = (),
        timeout: float = 60.0,
    ):
        if mode not in MODES:
            raise UserError(f"logger.mode={mode}: choose from {', '.join(MODES)}")
        self.about: dict[str, Any] = {"mode": mode, "project": project, "group": group}
        self.about |= {"job_type": job_type, "tags": [str(tag) for tag in tags]}
        self.about["timeout"] = float(timeout)
        self.known: set[Path] = set()

    def begin(self) -> None:
        """Start the child, so that its imports pass beside the first batch."""
        desk()

    def tell(self, folders: Sequence[Path]) -> None:
        """Let these finished folders be mirrored; returns at once."""
        for folder in folders:
            if folder not in self.known:
                self.known.add(folder)
                order = self.about | {"folder": str(folder.absolute())}
                desk().orders.put((order, self.about["timeout"]))

    def mirror(self, folders: Sequence[Path]) -> None:
        """tell() of those that it was not told of, and wait for all."""
        self.tell(folders)
        if _desk is not None:
            _desk.wait()
