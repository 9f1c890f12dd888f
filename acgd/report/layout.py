"""Where each record stands: its row (the sound, the words or the picture asked for) and settings.

A job that failed before it had a run is placed by the overrides it was given.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from acgd.runs import records as run_records
from acgd.runs.records import Record

SUBJECT = ("prompt.path", "prompt.text", "prompt.image")


def rows(records: list[Record]) -> tuple[list[dict], list[int]]:
    """The rows in the order they first appear, and for each record the number of its row.

    A row is {"label", "kind" (audio, text, image, mixed or other), "path", "text", "image",
    "offset", "duration"}; the last five are None where they don't apply.
    """
    found: dict[str, dict] = {}
    keys = []
    for record in records:
        asked = subject(record)
        known = any(one is not None for one in asked)
        keys.append(json.dumps(asked, default=str) if known else likely(record, found))
        found.setdefault(keys[-1], row(record, asked))
    order = {key: i for i, key in enumerate(found)}
    return list(found.values()), [order[key] for key in keys]


def likely(record: Record, found: dict[str, dict]) -> str:
    """The row of a record without a config: that of its folder's name, else one of its own."""
    name = slug(record["label"] or "")
    same = (key for key, one in found.items() if slug(one["label"]) == name)
    return next(same, f"called {name}")


def slug(label: str) -> str:
    return re.sub(r"[^\w]+", "-", label.lower()).strip("-")[:40].strip("-")


def subject(record: Record) -> list[Any]:
    """What the picture is of: [path, text, image], None for what the prompt does not have."""
    chosen = {key: re.sub(r"\\(.)", r"\1", one) for key, one in run_records.chosen(record).items()}
    config = record["config"] or chosen
    return [config.get(key) for key in SUBJECT]


def row(record: Record, asked: list[Any]) -> dict:
    path, text, image = (many(value) for value in asked)
    config = record["config"]
    kind = "mixed" if path and text else "audio" if path else "text" if text else "image"
    names = [Path(one.removeprefix("demo:")).stem for one in path]
    label = ", ".join(names) or ", ".join(text) or ", ".join(Path(one).name for one in image)
    return {
        "label": label + (f" + {', '.join(text)}" if path and text else "")
        or record["label"]
        or "not known",
        "kind": kind if path or text or image else "other",
        "path": path[0] if path else None,
        "text": ", ".join(text) or None,
        "image": image[0] if image else None,
        "offset": config.get("prompt.offset", 0.0),
        "duration": config.get("prompt.duration", 10.0),
    }


def many(value: Any) -> list[str]:
    """A config's value that may be one thing or a list, as a list of strings."""
    if value in (None, "", []):
        return []
    return [str(one) for one in (value if isinstance(value, list) else [value])]


def settings(records: list[Record], keys: list[str]) -> list[list[str]]:
    """For each record the values of the varied keys, as short texts; "" where one is unknown."""
    columns = [run_records.values(records, key) for key in keys]
    return [[column[i] or "" for column in columns] for i in range(len(records))]
