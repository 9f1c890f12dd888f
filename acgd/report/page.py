"""The page's HTML and the data it shows."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from acgd.atomic_files import write
from acgd.report import assets, command_lines, contact_sheet, layout, page_data
from acgd.runs import records as run_records
from acgd.runs.records import Record

HERE = Path(__file__).parent / "page"
STYLE = ("page.css", "detail.css", "compare.css")
SCRIPTS = ("tools.js", "sound.js", "grid.js", "detail.js", "compare.js", "start.js")
ASSETS, SHEET = "report", "contact_sheet.png"
CHUNK = 100  # samples whose losses and traces come in one file


def of_run(record: Record) -> str:
    """A run's page: everything in one file but the pictures, which lie beside it."""
    folder = record["folder"]
    look = assets.of_run(record)
    rows, _ = layout.rows([record])
    rows[0] |= assets.subject(rows[0], folder / ASSETS / "sound", [record])
    sample = page_data.sample(record, 0, [], page_data.scores([record])) | look
    data = {
        "kind": "run",
        "title": f"{record['label'] or folder.name}, seed {record['seed']}",
        "rows": rows,
        "keys": [],
        "scores": page_data.scores([record]),
        "samples": [sample],
        "common": record["config"],
        "details": [page_data.detail(record, record["config"], assets.frames_of_run(record))],
    }
    return filled(data["title"], f"<script>window.ACGD = {script(data)};</script>", look["full"])


def of_many(folder: Path, records: list[Record]) -> str:
    """The page of a sweep or of outputs/NAME; writes what it shows into report/."""
    from acgd.report import comparison  # brings scipy along, which a run's page does without

    home = folder / ASSETS
    home.mkdir(exist_ok=True)
    rows, where = layout.rows(records)
    looks = made(home, records, rows, where)
    keys, scores, common = (
        run_records.varied(records),
        page_data.scores(records),
        page_data.common(records),
    )
    told = zip(records, where, layout.settings(records, keys), looks, strict=True)
    samples = [page_data.sample(one, row, own, scores) | look for one, row, own, look in told]
    write_details(home, records, looks, common)
    contact_sheet.write(home / SHEET, home, rows, keys, samples)
    assets.tidy(home, rows, looks)
    data: dict[str, Any] = {
        **about(folder),
        "rows": rows,
        "keys": keys,
        "scores": scores,
        "samples": samples,
        "common": common,
        "chunk": CHUNK,
        "tables": comparison.tables(folder, records, keys),
        "sheet": f"{ASSETS}/{SHEET}",
    }
    write(home / "data.js", f"window.ACGD = {script(data)};\n")
    return filled(data["title"], f'<script src="{ASSETS}/data.js"></script>', data["sheet"])


def made(home: Path, records: list[Record], rows: list[dict], where: list[int]) -> list[dict]:
    """The files of all records and rows: each record's URLs; the rows are told theirs."""
    own: list[list[Record]] = [[] for _ in rows]
    for record, at in zip(records, where, strict=True):
        own[at].append(record)

    def of_row(row: dict, records: list[Record]) -> None:
        row |= assets.subject(row, home / "sounds" / assets.name_of(row), records)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow works beside Python's lock
        list(pool.map(of_row, rows, own))
        return list(pool.map(lambda record: assets.of_many(record, home), records))


def about(folder: Path) -> dict[str, str]:
    """Kind, title and command of outputs/main/sweeps/2026-03-14_10-00-00-000000 or outputs/main.

    The title is "main, sweep of 2026-03-14 10:00:00" or "main".
    """
    folder = folder.resolve()
    if folder.parent.name != "sweeps":
        return {"kind": "folder", "title": folder.name, "command": ""}
    when = re.sub(r"_(\d\d)-(\d\d)-(\d\d)(-\d+)?$", r" \1:\2:\3", folder.name)
    title = f"{folder.parent.parent.name}, sweep of {when}"
    return {"kind": "sweep", "title": title, "command": command_lines.sweep(folder)}


def write_details(home: Path, records: list[Record], looks: list[dict], common: dict) -> None:
    """details-N.js: what is shown of a sample when it is enlarged, CHUNK samples a file."""
    for old in home.glob("details-*.js"):
        if re.fullmatch(r"details-\d+\.js", old.name):
            old.unlink()
    for number, start in enumerate(range(0, len(records), CHUNK)):
        part = [
            page_data.detail(records[i], common, assets.frames_of_many(records[i], looks[i]))
            for i in range(start, min(start + CHUNK, len(records)))
        ]
        write(home / f"details-{number}.js", f"ACGD.arrived({number}, {script(part)});\n")


def script(data: Any) -> str:
    """JSON that may stand in a script element, whatever strings are in it."""
    text = json.dumps(finite(data), separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def filled(title: str, data: str, picture: str | None) -> str:
    """The HTML with style and script in it; the picture is for browsers without scripts."""
    template, style, code = template_parts()
    fallback = f'<img src="{html.escape(picture)}" alt="The pictures">' if picture else ""
    made = time.strftime("%Y-%m-%d %H:%M")
    parts = {"title": html.escape(title), "made": made, "fallback": fallback}
    parts |= {"style": style, "data": data, "script": code}
    policy, rest = template.split("{{policy}}")
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], rest)
    return policy + allowed(page) + page


def allowed(page: str) -> str:
    """The policy of a page: its own scripts, pictures and sounds beside it, no network.

    Its own are those in it as it was made, by their hashes, and those in the folder beside it.
    """
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in re.findall(r"<script>(.*?)</script>", page, re.S)
    ]
    near = "'self' file:"  # a page that is opened from the disk has no origin to be its self
    rules = {
        "default-src": "'none'",
        "script-src": " ".join([near, *(f"'sha256-{digest}'" for digest in digests)]),
        "style-src": "'unsafe-inline'",
        "img-src": f"{near} data:",
        "media-src": near,
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {what}" for name, what in rules.items())


@lru_cache(maxsize=1)
def template_parts() -> tuple[str, str, str]:
    def read(names: tuple[str, ...]) -> str:
        return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)

    return read(("page.html",)), read(STYLE), read(SCRIPTS)
