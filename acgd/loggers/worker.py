"""A process beside ours for what may hang, crash or take its time. It is told one thing at a time.

Orders and answers are lines of JSON. The child ends when its stdin does, so it never outlives its
parent by more than one order.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def without_service(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the address of a W&B service that this process began: in a child that used it, runs
    of one id would meet there."""
    return {name: value for name, value in environment.items() if name != "WANDB_SERVICE"}


class Child:
    """A Python module that answers each line of its stdin with one on its stdout."""

    def __init__(self, module: str, **more: str):
        """more: what its environment has besides ours."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is the parent's to handle
            env={**without_service(os.environ), "PYTHONPATH": path, **more},
        )
        self.answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        assert self.process.stdout is not None  # a pipe
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put(b"")

    def ask(self, order: dict, timeout: float) -> dict:
        """The answer, or {"lost": why} after `timeout` seconds or where the child has ended."""
        assert self.process.stdin is not None  # a pipe
        try:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()
            line = self.answers.get(timeout=timeout)
        except OSError:
            line = b""
        except queue.Empty:
            self.stop()
            return {"lost": "no answer in time"}
        return json.loads(line) if line else {"lost": "its process has ended"}

    def stop(self) -> None:
        """End it and what it started; nothing is waited for longer than a moment."""
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, 9)
            except (OSError, AttributeError):
                self.process.kill()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
