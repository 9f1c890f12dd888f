"""Output that cannot be shown is left out: it never decides whether a picture is made.

A pipe that nobody reads (`| true`), a full disk behind `>`, closed descriptors (`>&-`) and a
terminal without the letters end nothing. `prepare` goes first in every command.
"""

from __future__ import annotations

import io
import os
import sys
import warnings


class Patient(io.TextIOWrapper):
    """A stream that falls silent at the first thing that it cannot write."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except (OSError, ValueError):
            self.silence()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except (OSError, ValueError):
            self.silence()

    def silence(self) -> None:
        """From here on to nowhere, what is still buffered included, or it would fail at the end."""
        try:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.dup2(descriptor, self.fileno())
            os.close(descriptor)
        except (OSError, ValueError):
            pass  # closed by its owner


def prepare() -> None:
    """Make stdout and stderr patient; letters that they lack are written as escapes."""
    fill_descriptors()
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # of pictures half right
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        elif type(stream) is not io.TextIOWrapper or descriptor_of(stream) != number:
            continue  # a notebook's, or one that catches what is said
        setattr(sys, name, patient(stream))


def patient(stream: io.TextIOWrapper) -> Patient:
    encoding, lines, through = stream.encoding, stream.line_buffering, stream.write_through
    binary = stream.detach()
    return Patient(binary, encoding, "backslashreplace", None, lines, through)


def fill_descriptors() -> None:
    """Closed descriptors 0 to 2 would be given to the next files, and written to by libraries."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


def descriptor_of(stream: io.TextIOWrapper) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None
