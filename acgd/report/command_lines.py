"""The line to type that makes a picture again, without its seed: the page puts the seeds in."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from acgd.config import words
from acgd.errors import UserError
from acgd.media import texts
from acgd.paths import command as acgd
from acgd.runs import records as run_records
from acgd.runs.records import Record

PLAIN = re.compile(r"[\w./:@%+-]+")  # Hydra reads it without quotes
SUBJECT = ("prompt.path", "prompt.text", "prompt.image")  # in this order


def command(record: Record) -> str:
    """`acgd ...`, where the words that the run was started with are known; else "".

    Those words, with the one sound (text, picture) that this record is of.
    """
    given = record["overrides"] or started(record["folder"])
    if given is None:
        return ""
    chosen = {key: record["config"].get(key) for key in SUBJECT}
    chosen = {key: f"{key}={quoted(value)}" for key, value in chosen.items() if value is not None}
    words = []
    for word in given:
        key = word.partition("=")[0]
        if key != "seed":
            words.append(chosen.pop(key, harmless(word)))
    return " ".join([acgd(), *map(shlex.quote, [*words, *chosen.values()])])


def harmless(word: str) -> str:
    """A word as it was given, but asking no resolver: a page that was sent must not have the
    environment of whoever pastes its commands told (${oc.env:KEY}). ${concept} stays."""
    return words.literal(word) if re.search(r"\$\{[^}]*:", word) else word


def started(folder: Path | None) -> list[str] | None:
    """The words of the command that made a run outside a sweep, None where they are not known."""
    typed = run_records.parse(folder / "environment.json").get("command") if folder else None
    given = typed[1:] if isinstance(typed, list) else []
    is_whole = bool(typed) and all(isinstance(word, str) and "=" in word for word in given)
    return given if is_whole and not any(word.startswith("-") for word in given) else None


def again(record: Record) -> str:
    """What repeats a run of which only the folder is known."""
    folder: Path | None = record["folder"]
    return f"{acgd()} repeat {shlex.quote(near(folder))}" if folder else ""


def near(folder: Path) -> str:
    """A folder as seen from here where it lies below."""
    here = Path.cwd()
    whole = folder.absolute()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else folder)


def sweep(folder: Path) -> str:
    """The line that a sweep was started with, "" where it is not known."""
    try:
        multirun = texts.tree(texts.text(folder / "multirun.yaml", "multirun.yaml"))
        given = [harmless(str(word)) for word in multirun["hydra"]["overrides"]["task"]]
    except (UserError, KeyError, TypeError):
        return ""
    return " ".join([acgd(), *map(shlex.quote, given), "-m"])


def quoted(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(quoted(one) for one in value)}]"
    text = str(value)
    if PLAIN.fullmatch(text):
        return text
    return words.quoted(text, '"')
