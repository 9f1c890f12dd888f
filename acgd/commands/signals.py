"""Ctrl-C and SIGTERM, from the first moment to the last: one line, exit code 130 or 143.

Before there is anything to keep, and when all is done, the process ends at once. In between the
signal becomes an exception, so that runs are written down as interrupted; a second one ends the
process there. Loads next to nothing: it stands before all that takes its time.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from types import FrameType

SAID = "interrupted; what was finished stays, the same command resumes here"
asked: list[int] = []  # the signals that came and became exceptions
HANDLED = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM: a scheduler wants its machine back. It ends a job as Ctrl-C does."""


@atexit.register
def deafen() -> None:
    """The last that Python does before it lets go of its handlers: the process is ending anyway,
    and a signal's own way to end it would make a finished job look like a failed one."""
    for number in HANDLED:
        if signal.getsignal(number) in (leave, stop):
            signal.signal(number, signal.SIG_IGN)


def at_once() -> None:
    """From here on a signal ends the process; nohup's and a background job's stay ignored."""
    for number in HANDLED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)


def in_order() -> None:
    """From here on a signal is a KeyboardInterrupt, where it would have ended the process."""
    for number in HANDLED:
        if signal.getsignal(number) is leave and not asked:
            signal.signal(number, stop)


def leave(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, f"acgd: {SAID}\n".encode())
    finally:
        os._exit(128 + number)


def stop(number: int, frame: FrameType | None) -> None:
    if loading("torch"):  # whose C++ parts abort where an exception cuts them off; nothing is begun
        leave(number, frame)
    asked.append(number)
    at_once()
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def loading(name: str) -> bool:
    """Whether a module is just being imported."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def code() -> int:
    """The exit code of what a signal ended; 0 where none came."""
    return 128 + asked[0] if asked else 0
