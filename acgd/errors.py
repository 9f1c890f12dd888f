"""What went wrong, in one line a person can act on."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version

JOINERS = "\u200c\u200d"  # of letters, and of faces that are one emoji


def say(line: str) -> None:
    print(f"acgd: {printable(line)}", file=sys.stderr)


@cache
def say_once(line: str) -> None:
    """Say it, unless this process has said the same before."""
    say(line)


def printable(text: str) -> str:
    """Text as a terminal may have it: line breaks, escape codes and other bytes that no eye sees,
    as file names can hold them, are spelled out."""
    return "".join(
        letter
        if letter.isprintable() or letter in JOINERS
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def one_line(error: BaseException) -> str:
    """An exception's message on one line, without Hydra's and OmegaConf's trailing details."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = []
    for line in lines:
        if line.startswith(("full_key:", "object_type=", "reference_type=", "Config search path")):
            break
        if line:
            kept.append(line)
    return " ".join(kept) or type(error).__name__


class UserError(Exception):
    """Something the user can mend; its message is one line saying what is wrong and what to do."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what is behind it; chains may run in a circle: Hydra raises causes anew."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def torchvision_apart(error: BaseException) -> UserError | None:
    """What to say where a torchvision that was built for another torch is behind an error.

    Both open_clip and transformers import it where they find it, and then fail with "operator
    torchvision::nms does not exist", which names neither; None where that is not what happened.
    """
    if not any(re.search(r"torchvision::\w+ does not exist", str(one)) for one in causes(error)):
        return None
    return UserError(
        f"the torchvision that is installed was built for another torch than {version('torch')}: "
        "install the torchvision of the same build (CPU or CUDA) from where torch came from, or, "
        "where open_clip is not used, pip uninstall torchvision"
    )


def first_words(error: BaseException, most: int = 100) -> str:
    """An exception's first line, cut to `most` characters."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= most else line[: most - 3] + "..."


def fraction(value: float, key: str) -> float:
    """A number in [0, 1]; UserError names the config key otherwise."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise UserError(f"{key}={value}: must be a number from 0 to 1")
    return number
