"""Records as the page's data: what a tile shows, and what an enlarged picture adds."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TypeGuard

from acgd.report import command_lines
from acgd.runs import records as run_records
from acgd.runs.records import Record

POINTS = 120  # of a loss curve at most
FIRST = ("judge.similarity", "judge.image_audio", "judge.rank", "caption_agreement")
# Where nobody said what a sound is, a picture may be like what was heard and yet be wrong: there
# the tiles are coloured by how the judge's own ears take the sound.
UNNAMED = ("judge.image_audio", *FIRST)
LOW_IS_GOOD = ("rank", "seconds", "peak_mb")
TOLD = ("ok", "failed", "interrupted", "not started")  # other states are unfinished runs


def scores(records: list[Record]) -> list[dict]:
    """The scores that finished records have: {"key", "name", "low" (less is better)}."""
    done = [record["scores"] for record in records if record["status"] == "ok"]
    pairs = (pair for scores in done for pair in scores.items())
    names = dict.fromkeys(key for key, value in pairs if is_number(value))
    unnamed = any(scores.get("concept_from") == "heard" for scores in done)
    first = dict.fromkeys(UNNAMED if unnamed else FIRST)
    keys = [key for key in first if key in names] + [key for key in names if key not in first]
    return [
        {"key": key, "name": name(key), "low": key.rpartition(".")[2] in LOW_IS_GOOD}
        for key in keys
        if not key.endswith(".of")
    ]


def name(key: str) -> str:
    """judge.image_audio as "judge: image to audio"."""
    who, dot, what = key.replace("image_", "image to ").replace("_", " ").rpartition(".")
    return f"{who.replace('.', ' ')}: {what}" if dot else what


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def sample(record: Record, row: int, settings: list[str], columns: list[dict]) -> dict:
    """What a tile shows of a record, and what it is sorted and filtered by."""
    scores = record["scores"] if record["status"] == "ok" else {}
    values = [scores.get(column["key"]) for column in columns]
    return {
        "row": row,
        "label": record["label"] or "",
        "seed": record["seed"],
        "status": record["status"] if record["status"] in TOLD else "unfinished",
        "error": record["error"] or "",
        "caption": record["caption"],
        "words": [str(word) for word in record["words"]],
        "settings": settings,
        "scores": [rounded(value) if is_number(value) else None for value in values],
        "command": command_lines.command(record),
        "folder": record["folder"].name if record["folder"] else "",
    }


def detail(record: Record, common: dict, frames: list[dict]) -> dict:
    """What an enlarged picture shows besides."""
    options = {k: v for k, v in record["config"].items() if k not in common or common[k] != v}
    of = {k.removesuffix(".of"): v for k, v in record["scores"].items() if k.endswith(".of")}
    named = {k.removesuffix(".names"): v for k, v in record["scores"].items() if "names" in k}
    return {
        "frames": frames,
        "losses": losses(record["folder"]),
        "config": options,
        "traceback": record["traceback"] or "",
        "heard": record["heard"][:5],
        "seen": {who: labels[:5] for who, labels in named.items() if isinstance(labels, list)},
        "of": of,
        "overrides": record["overrides"],
        "again": command_lines.again(record),
        "made": made(record["folder"]),
    }


def made(folder: Path | None) -> str:
    """What a run was made with: versions, device and commit, as far as it was written down."""
    environment = run_records.parse(folder / "environment.json") if folder else {}
    packages = environment.get("packages")
    packages = packages if isinstance(packages, dict) else {}
    parts = [f"{name} {packages[name]}" for name in ("acgd", "torch") if packages.get(name)]
    parts += [str(environment[key]) for key in ("device_name", "precision") if environment.get(key)]
    commit = re.match(r"[0-9a-f]{10}", str(environment.get("git")))
    return ", ".join(parts + ([f"commit {commit[0]}"] if commit else []))


def common(records: list[Record]) -> dict:
    """The settings that all records with a config share."""
    configs = [record["config"] for record in records if record["config"]]
    if not configs:
        return {}
    first, *others = configs
    return {k: v for k, v in first.items() if all(k in c and c[k] == v for c in others)}


def losses(folder: Path | None) -> dict[str, list]:
    """losses.csv by column, at most POINTS rows of it, None where a step has no value."""
    rows = [] if folder is None else run_records.rows(folder / "losses.csv")
    if len(rows) > POINTS:
        rows = [rows[round(i * (len(rows) - 1) / (POINTS - 1))] for i in range(POINTS)]
    names = [name for name in (rows[0] if rows else {}) if name not in (None, "t")]
    return {name: [read(row.get(name)) for row in rows] for name in names}


def read(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return rounded(value) if math.isfinite(value) else None


def rounded(value: float) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.5g}")
