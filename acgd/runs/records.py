"""What finished, failed and broken-off samples left on disk, as one flat record each.

A record is a dict:

    folder      Path of the run, None for a job that failed before it had one
    status      ok, running, failed, interrupted; absent where nothing can be read
    error, traceback    of a failure, else None
    label, seed, signature, seconds
    overrides   list of the words that its sweep's job was given; [] where no job is known
    words       list, the describer's; caption: str; heard: list of [label, probability]
    config      flat: {"guidance.clip": 1000.0, "prompt.path": "demo:dog", ...}
    scores      flat: {"judge.similarity": 0.31, "judge.rank": 1, "twin.judge.similarity": 0.1,
                "caption_agreement": 0.6, "seconds": 10.4, "peak_mb": 610.0, ...}; what is
                missing is not in it. seconds: those of its batch, shared among its pictures;
                peak_mb: the batch's

Nothing here raises for a torn, empty or missing file, and nothing needs torch.
"""

from __future__ import annotations

import csv
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from acgd.config.keys import BESIDE_THE_POINT
from acgd.errors import UserError
from acgd.media import texts

NAME = re.compile(r"(?P<label>.+)-seed(?P<seed>\d+)-(?P<signature>[0-9a-f]+)")
NO_SCORES = ("label", "seed", "signature", "caption", "words")
OWN = ("seed", "concept", "prompt.path", "prompt.text", "prompt.image")  # of each sample
Record = dict[str, Any]


def read(folder: str | Path) -> list[Record]:
    """The samples under a run's folder, outputs/NAME, a sweep's folder or one job's of it.

    A sweep's samples are those that its jobs name, each once; a job that failed before it had
    samples is a record without a folder. Jobs of that kind are not told of in outputs/NAME.
    """
    folder = Path(folder)
    status = parse(folder / "status.json")
    if "overrides" in status:
        return of_jobs([folder], folder.parent.parent.parent)
    if status or (folder / "config.yaml").is_file():
        return [sample(folder, [])]
    jobs = [path.parent for path in folder.glob("*/status.json") if "overrides" in parse(path)]
    if jobs:
        return of_jobs(jobs, folder.parent.parent)
    overrides: dict[Path, list[str]] = {}
    for path in sorted(folder.glob("sweeps/*/*/status.json")):
        job = parse(path)
        overrides |= {folder / run: job.get("overrides") or [] for run in names(job)}
    runs = [path for path in sorted(folder.glob("*/")) if NAME.fullmatch(path.name)]
    return [sample(path, overrides.get(path, [])) for path in runs]


def of_jobs(jobs: list[Path], home: Path) -> list[Record]:
    """The records of a sweep's jobs in their order; home is outputs/NAME."""
    records: dict[Path, Record] = {}
    for number, path in enumerate(sorted(jobs, key=in_order)):
        job = parse(path / "status.json")
        overrides = job.get("overrides") or []
        for run in names(job):
            records.setdefault(home / run, sample(home / run, overrides))
        if not names(job):
            records[Path(str(number))] = empty(None) | {
                "status": job.get("status") or "absent",
                "error": job.get("error"),
                "traceback": job.get("traceback"),
                "overrides": overrides,
            }
    return list(records.values())


def in_order(path: Path) -> tuple[int, str]:
    """Job 2 before job 10."""
    return (int(path.name) if path.name.isdigit() else 0, path.name)


def names(job: dict) -> list[str]:
    runs = job.get("runs")
    return [str(run) for run in runs] if isinstance(runs, list) else []


def sample(folder: Path, overrides: list[str]) -> Record:
    """The record of one run's folder."""
    status, metrics = parse(folder / "status.json"), parse(folder / "metrics.json")
    record = empty(folder) | {"overrides": list(overrides), "config": settings(folder)}
    if match := NAME.fullmatch(folder.name):
        record |= match.groupdict() | {"seed": int(match["seed"])}
    record |= {key: metrics[key] for key in ("label", "seed", "signature") if key in metrics}
    record |= {key: status[key] for key in ("status", "error", "traceback") if key in status}
    batch = status.get("batch")
    cost = batch if isinstance(batch, dict) else {}
    record["seconds"] = shared(cost) or status.get("seconds")
    record["words"] = metrics.get("words") or []
    record["caption"] = metrics.get("caption") or ""
    record["heard"] = parse(folder / "targets.json").get("heard") or []
    scores = {key: value for key, value in metrics.items() if key not in NO_SCORES}
    picture = scores.pop("picture", None)
    record["scores"] = flat(picture if isinstance(picture, dict) else {}) | flat(scores)
    costs = {"seconds": record["seconds"], "peak_mb": cost.get("peak_mb")}
    record["scores"] |= {key: value for key, value in costs.items() if value is not None}
    return record


def shared(cost: dict) -> float | None:
    """A picture's share of its batch's seconds."""
    try:
        return round(cost["seconds"] / cost["pictures"], 3)
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def empty(folder: Path | None) -> Record:
    return {
        "folder": folder,
        "status": "absent",
        "error": None,
        "traceback": None,
        "label": None,
        "seed": None,
        "signature": None,
        "seconds": None,
        "overrides": [],
        "words": [],
        "caption": "",
        "heard": [],
        "config": {},
        "scores": {},
    }


def parse(path: Path) -> dict:
    """A json file's object; {} where there is none that can be read."""
    try:
        if not path.is_file():  # a link to a device would never end
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def rows(path: Path) -> list[dict[str, str]]:
    """A csv's rows; [] where there is no file that can be read."""
    try:
        if not path.is_file():
            return []
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return []


def settings(folder: Path) -> dict[str, Any]:
    """config.yaml, flat; {} where there is none that can be read."""
    try:
        text = texts.text(folder / "config.yaml", "config.yaml")
        return dict(
            pair for part in re.split(r"^(?=[^\s\-#])", text, flags=re.M) for pair in block(part)
        )
    except UserError:
        return {}


@lru_cache(maxsize=4096)
def block(text: str) -> tuple[tuple[str, Any], ...]:
    """One key of config.yaml with what is below it: most are the same in a thousand runs."""
    tree = texts.tree(text)
    return tuple(flat(tree).items()) if isinstance(tree, dict) else ()


def flat(node: dict, prefix: str = "") -> dict[str, Any]:
    """{"guidance": {"clip": 1}} as {"guidance.clip": 1}; lists stay whole."""
    flattened: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flattened |= flat(value, f"{prefix}{key}.")
        else:
            flattened[f"{prefix}{key}"] = value
    return flattened


def varied(records: list[Record]) -> list[str]:
    """What a sweep varied, as dotted keys, beside each sample's own prompt, concept and seed.

    Where every record knows its overrides, those that differ: "sampler" for a group that was
    chosen anew. Else the config's keys that differ, with "sampler" for "sampler._target_" and
    for what only goes along with it.
    """
    if records and all(record["overrides"] for record in records):
        given = [chosen(record) for record in records]
    else:
        given = [record["config"] for record in records if record["config"]]
    keys = [key for key in dict.fromkeys(key for one in given for key in one) if counts(key)]
    varying = [key for key in keys if len({repr(one.get(key)) for one in given}) > 1]
    nodes = [key.removesuffix("._target_") for key in varying if key.endswith("._target_")]
    kept = []
    for key in varying:
        node = next((node for node in nodes if key.startswith(f"{node}.")), None)
        if node is None or not follows(given, key, f"{node}._target_"):
            kept.append(key)
        elif node not in kept:
            kept.append(node)
    return kept


def counts(key: str) -> bool:
    beside = any(key == one or key.startswith(f"{one}.") for one in BESIDE_THE_POINT)
    return not beside and key not in OWN


def values(records: list[Record], key: str) -> list[str | None]:
    """What each record has for a dotted key or for a group, as text; None where it has nothing.

    A group ("sampler") has the name that was chosen for it, where all records know theirs, else
    the name of its class. Numbers have one form: 1000 for 1000.0 and 1e3.
    """
    given = [chosen(record).get(key) for record in records]
    if all(value is not None for value in given) and not any(key in r["config"] for r in records):
        return given
    column: list[str | None] = []
    for record, override in zip(records, given, strict=True):
        config = record["config"]
        target = config.get(f"{key}._target_")
        if key in config:
            column.append(text(config[key]))
        else:
            column.append(str(target).rpartition(".")[2] if target else override)
    return column


def text(value: Any) -> str:
    """A config's value as it would be typed."""
    if isinstance(value, str) and not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value):
        return value
    if isinstance(value, bool | list | None):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        return str(value)
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def chosen(record: Record) -> dict[str, str]:
    """A job's overrides by key: {"guidance.schedule": "cosine"} for guidance/schedule=cosine."""
    pairs = (word.partition("=") for word in record["overrides"])
    return {key.lstrip("+").replace("/", "."): text(value.strip("'\"")) for key, _, value in pairs}


def follows(given: list[dict], key: str, leader: str) -> bool:
    """Whether one value of `leader` always brings the same value of `key`."""
    seen: dict[str, str] = {}
    pairs = ((repr(one.get(leader)), repr(one.get(key))) for one in given)
    return all(seen.setdefault(a, b) == b for a, b in pairs)
