"""Pictures of what a sound is of, to compare ours with: the config's `references`."""

from __future__ import annotations

import csv
import glob
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from acgd.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TABLES = (".csv", ".yaml", ".yml")


def check(references: Any) -> None:
    """UserError for references that cannot be read, before anything is made; null is none."""
    for places in table(references).values():
        for path in pictures(places):
            openable(path)


def find(references: Any, *names: str | None) -> list[Path]:
    """The pictures of the first of these names (a sound's label, its concept) that has any.

    references: a picture, folder or glob (or a list of them), whose pictures are everybody's, or
    a mapping from names to such; a csv with the columns label and picture, or a yaml, holds one.
    """
    known = table(references)
    places = [known[name.lower()] for name in (*names, "*") if name and name.lower() in known]
    return list(pictures(places[0])) if places else []


def table(references: Any) -> dict[str, tuple[str, ...]]:
    """Places of pictures by name in lower case; "*" is everybody."""
    if not references:
        return {}
    if isinstance(references, str) and references.lower().endswith(TABLES):
        return read(Path(references).expanduser())
    if isinstance(references, dict):
        return {str(name).lower(): listed(places) for name, places in references.items()}
    return {"*": listed(references)}


@lru_cache(maxsize=16)
def read(path: Path) -> dict[str, tuple[str, ...]]:
    """A csv's or a yaml's table; its places are relative to it."""
    found: dict[str, tuple[str, ...]] = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            if path.suffix.lower() == ".csv":
                rows = [(row["label"], row["picture"]) for row in csv.DictReader(file)]
            else:
                rows = list(yaml.safe_load(file).items())
    except (OSError, ValueError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise UserError(
            f"references={path}: cannot be read as a table ({type(error).__name__}: {error}); it is"
            " a csv with the columns label and picture, or a yaml {label: picture}"
        ) from None
    for name, places in rows:
        own = tuple(str(path.parent / Path(place).expanduser()) for place in listed(places))
        found[str(name).lower()] = found.get(str(name).lower(), ()) + own
    return found


def listed(places: Any) -> tuple[str, ...]:
    return tuple(map(str, places)) if isinstance(places, list | tuple) else (str(places),)


@lru_cache(maxsize=1024)
def pictures(places: tuple[str, ...]) -> tuple[Path, ...]:
    """The picture files of some files, folders and globs, sorted place by place."""
    found: list[Path] = []
    for place in places:
        path = Path(place).expanduser()
        near = path.iterdir() if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
        own = [path] if path.is_file() else sorted(one for one in near if is_picture(one))
        if not own:
            raise UserError(f"references: {place} is no picture, nor a folder or glob of pictures")
        found += own
    return tuple(dict.fromkeys(found))


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and path.is_file()


@lru_cache(maxsize=65536)
def openable(path: Path) -> None:
    from PIL import Image

    try:
        Image.open(path).close()
    except (OSError, Image.DecompressionBombError):
        raise UserError(f"references: {path} cannot be read as a picture") from None
