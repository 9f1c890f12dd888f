"""The table of published files, published.yaml: what a config may name and where it is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from acgd.errors import UserError
from acgd.paths import command

TABLE = Path(__file__).with_name("published.yaml")


def cache_dir() -> Path:
    """Where downloaded weights live, absolute."""
    folder = os.environ.get("ACGD_CACHE") or "~/.cache/acgd"
    return Path(folder).expanduser().absolute()


@dataclass(frozen=True)
class Published:
    """One file. `size` and `sha256` are None where nobody could check them here."""

    name: str  # in the cache folder, and in a config's `checkpoint`
    purpose: str
    licence: str
    size: int | None  # bytes
    about: int  # bytes to plan the disk by: the size, else what the tensors come to, else 0
    sha256: str | None
    mirrors: tuple[str, ...]  # URLs or paths, in the order they are tried
    by_hand: str | None  # what a person does, followed by where the file goes


@cache
def table() -> dict[str, Published]:
    """Every published file by its name."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # six times as fast, where it is built
    rows: Any = yaml.load(TABLE.read_text(encoding="utf-8"), loader)
    return {name: read(name, **row) for name, row in rows.items()}


def read(name: str, licence: str, size: int | None, sha256: str | None, **row: Any) -> Published:
    """A row of the table; its mirrors may say {name} and {sha256}."""
    return Published(
        name=name,
        purpose=row["for"],
        licence=licence,
        size=size,
        about=size or row.get("about", 0),
        sha256=sha256,
        mirrors=tuple(m.format(name=name, sha256=sha256) for m in row["mirrors"]),
        by_hand=row.get("by_hand"),
    )


def named(name: str) -> list[Published]:
    """The file of this name, or those in the folder of this name ("gpt2"); [] if there is none."""
    rows = table()
    folder = name.rstrip("/") + "/"
    return [rows[name]] if name in rows else [rows[n] for n in rows if n.startswith(folder)]


def named_in(node: Any, key: str = "") -> list[Published]:
    """The published files that a config's values name, at any depth, each once."""
    if isinstance(node, dict):
        rows = [row for k, value in node.items() for row in named_in(value, str(k))]
    elif isinstance(node, list):
        rows = [row for value in node for row in named_in(value, key)]
    elif isinstance(node, str) and node and key != "text":
        clip = key == "image_from" and not Path(node).suffix  # rn50
        rows = named(f"{node.upper()}.pt" if clip else node)
    else:
        rows = []
    return list(dict.fromkeys(rows))


def missing(source: str, place: Path) -> UserError:
    """What to say of weights that are not here and belong at `place`."""
    where = f"the weights {source} are not here: put the file at {place}"
    rows = named(source)
    if rows and rows[0].mirrors:
        size = gigabytes(sum(row.about for row in rows))
        return UserError(f"{where}, or fetch it: {command()} fetch {source} ({size})")
    if rows:
        return UserError(f"{where}; nobody publishes it: {by_hand(rows[0], place)}")
    return UserError(f"{where}, or name another path with checkpoint=")


def absent(groups: Any) -> UserError | None:
    """What to say where published files that these parts of a config name are not here."""
    rows = [row for row in named_in(groups) if not is_here(row)]
    if len(rows) < 2:
        return missing(rows[0].name, cache_dir() / rows[0].name) if rows else None
    names = ", ".join(row.name for row in rows)
    fetched = [row for row in rows if row.mirrors]
    parts = [f"{len(rows)} weights files are not here: {names}"]
    if fetched:
        size = gigabytes(sum(row.about for row in fetched))
        words = " ".join(row.name for row in fetched)
        parts.append(f"fetch them: {command()} fetch {words} ({size})")
    parts += [
        f"nobody publishes {row.name}: {by_hand(row, cache_dir() / row.name)}"
        for row in rows
        if not row.mirrors
    ]
    return UserError("; ".join(parts))


def is_here(row: Published) -> bool:
    """Whether a published file is at hand, in this folder or in the cache; a tokenizer's parts are
    where its tokenizer.json is, and that is not asked for where the parts are."""
    if any((folder / row.name).is_file() for folder in (Path(), cache_dir())):
        return True
    home, _, name = row.name.rpartition("/")
    whole = {"tokenizer.json": ("vocab.json", "merges.txt")}.get(name, ("tokenizer.json",))
    folders = [folder / home for folder in (Path(), cache_dir())] if home else []
    return any(all((folder / part).is_file() for part in whole) for folder in folders)


def by_hand(row: Published, place: Path) -> str:
    """What a person does where nothing can be fetched."""
    return f"{row.by_hand or 'find it and save it as'} {place}"


def gigabytes(count: float) -> str:
    """Bytes in words: "2.2 GB", "537 MB"."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.{count < 10 * size:d}f} {unit}"
    return f"{count:.0f} bytes"
