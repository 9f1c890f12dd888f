"""The files that a page shows: which there are for a record, and where the page finds them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from acgd.report import thumbnails
from acgd.report.waveforms import sound
from acgd.runs import records as run_records
from acgd.runs.records import Record

KINDS = ("thumbs", "pictures", "strips", "sounds", "films")
OURS = re.compile(r"[0-9a-f]{12}(-twin)?\.(jpg|png|mp3|webp|mp4)")  # names by `key` and `name_of`


def of_run(record: Record) -> dict:
    """The pictures of a run as they lie in its folder; makes its animation.webp."""
    folder, picture, twin, previews = found(record)
    shown = picture or (previews[-1] if previews else None)
    look = {"thumb": url(shown, folder), "full": url(picture, folder), "twin": url(twin, folder)}
    look |= {name: url(path, folder) for name, path in of_film(folder).items()}
    movie = folder / "animation.webp"
    if picture and previews and thumbnails.animation(thumbnails.spread(previews), picture, movie):
        look["movie"] = movie.name
    return look


def of_many(record: Record, home: Path) -> dict:
    """A thumbnail, the picture itself and a strip of its previews in home; their URLs."""
    if record["folder"] is None:
        return {}
    _, picture, twin, previews = found(record)
    name, look = key(record), {}
    shown = picture or (previews[-1] if previews else None)
    if shown and thumbnails.thumb(shown, home / "thumbs" / f"{name}.jpg"):
        look["thumb"] = f"thumbs/{name}.jpg"
    for suffix, source in (("", picture), ("-twin", twin)):
        if source and look.get("thumb"):
            thumbnails.place(source, home / "pictures" / f"{name}{suffix}.png")
            look["twin" if suffix else "full"] = f"pictures/{name}{suffix}.png"
    for kind, path in of_film(record["folder"]).items():
        thumbnails.place(path, home / "films" / f"{name}{path.suffix}")
        look[kind] = f"films/{name}{path.suffix}"
    if thumbnails.strip(thumbnails.spread(previews), home / "strips" / f"{name}.jpg"):
        look["strip"] = f"strips/{name}.jpg"
    return {what: f"{home.name}/{path}" for what, path in look.items()}


def of_film(folder: Path) -> dict[str, Path]:
    """A film and the picture of what is heard when, where a run is one."""
    both = {"film": folder / "film.mp4", "timeline": folder / "images" / "timeline.png"}
    return {name: path for name, path in both.items() if path.is_file()}


def found(record: Record) -> tuple[Path, Path | None, Path | None, list[Path]]:
    """A run's folder, its picture and the unguided twin where they are there, its previews."""
    folder: Path = record["folder"]
    images = [folder / "images" / f"seed{record['seed']}{end}.png" for end in ("", "-twin")]
    picture, twin = (path if path.is_file() else None for path in images)
    return folder, picture, twin, sorted((folder / "previews").glob("step_*.png"))


def key(record: Record) -> str:
    """A name for a record's files that is a name everywhere."""
    return hashlib.sha256(record["folder"].name.encode()).hexdigest()[:12]


def url(path: Path | None, folder: Path) -> str | None:
    return quote(path.relative_to(folder).as_posix()) if path else None


def frames_of_run(record: Record) -> list[dict]:
    """The previews: {"src", "step", "caption"}, each a file of its own."""
    folder, _, _, previews = found(record)
    return [{"src": url(path, folder), **words} for path, words in captioned(folder, previews)]


def frames_of_many(record: Record, look: dict) -> list[dict]:
    """The previews: {"src", "at", "of", "step", "caption"}, number `at` of `of` in a strip."""
    if "strip" not in look:
        return []
    folder, _, _, previews = found(record)
    pairs = captioned(folder, thumbnails.spread(previews))
    of = len(pairs)
    return [
        {"src": look["strip"], "at": i, "of": of, **words} for i, (_, words) in enumerate(pairs)
    ]


def captioned(folder: Path, previews: list[Path]) -> list[tuple[Path, dict]]:
    """Each preview with its step and what the captioner said of it."""
    rows = run_records.rows(folder / "captions.csv")
    said = {row.get("picture"): row.get("caption") for row in rows}
    numbers = [path.stem.removeprefix("step_").lstrip("0") for path in previews]
    names = [f"previews/{path.name}" for path in previews]
    frames = [
        {"step": number or "0", "caption": said.get(name) or ""}
        for number, name in zip(numbers, names, strict=True)
    ]
    return list(zip(previews, frames, strict=True))


def subject(row: dict, target: Path, records: list[Record]) -> dict:
    """The sound's copy and picture, or the prompt's picture, in the page's folder."""
    prefix = f"{target.parent.name}/" if target.parent.name == "report" else "report/sounds/"
    made: dict[str, Any] = {}
    if row["path"]:
        times = (number(row["offset"], 0.0), number(row["duration"], 10.0))
        homes = [record["folder"] for record in records if record["folder"]]
        others = [home / "report" / "sound" for home in homes]
        if sound(row["path"], *times, target, [one for one in others if one != target]):
            made["sound"] = {end: f"{prefix}{target.name}.{end}" for end in ("mp3", "webp")}
    elif row["image"]:
        path = Path(row["image"])
        path = path if path.is_file() else Path(row["image"].rpartition(":")[0])
        shown = target.with_name(f"{target.name}.jpg")
        if path.is_file() and thumbnails.thumb(path, shown):
            made["picture"] = f"{prefix}{shown.name}"
    return made


def number(value: object, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default


def name_of(row: dict) -> str:
    """A name for a row's files, the same at the next build."""
    what = [row[key] for key in ("path", "text", "image", "offset", "duration")]
    return hashlib.sha256(json.dumps(what, default=str).encode()).hexdigest()[:12]


def tidy(home: Path, rows: list[dict], looks: list[dict]) -> None:
    """Remove what an earlier build made and this one does not show; nothing of another's name."""
    kept = {value for look in looks for value in look.values()}
    for row in rows:
        kept |= {row.get("picture"), *row.get("sound", {}).values()}
    for path in (path for kind in KINDS for path in (home / kind).glob("*")):
        if OURS.fullmatch(path.name) and f"{home.name}/{path.parent.name}/{path.name}" not in kept:
            path.unlink(missing_ok=True)
