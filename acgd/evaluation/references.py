"""Pictures of what a sound is of, to compare ours with: the config's `references`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from acgd.errors import UserError, one_line
from acgd.media import files, images, texts
from acgd.media.find import matches

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
    groups = table(references)
    places = [groups[plain(name)] for name in (*names, "*") if name and plain(name) in groups]
    return list(pictures(places[0])) if places else []


def table(references: Any) -> dict[str, tuple[str, ...]]:
    """Places of pictures by plain name; "*" is everybody."""
    if not references:
        return {}
    if isinstance(references, str) and references.lower().endswith(TABLES):
        return read(Path(references).expanduser())
    if isinstance(references, dict):
        return {plain(name): listed(places) for name, places in references.items()}
    return {"*": listed(references)}


@lru_cache(maxsize=16)
def read(path: Path) -> dict[str, tuple[str, ...]]:
    """A csv's or a yaml's table; its places are relative to it."""
    groups: dict[str, tuple[str, ...]] = {}
    try:
        if path.suffix.lower() == ".csv":
            rows: list = texts.rows(path, f"references={path}", ("label", "picture"))
        else:
            rows = list(texts.tree(texts.text(path, f"references={path}")).items())
    except (UserError, AttributeError) as error:
        raise UserError(
            f"references={path}: cannot be read as a table ({one_line(error)}); it is a csv with "
            "the columns label and picture, or a yaml {label: picture}"
        ) from None
    for name, places in rows:
        if isinstance(places, dict) or any(
            isinstance(one, list | dict) for one in listed_as(places)
        ):
            raise UserError(f"references={path}: {name} is to have a picture, or a list of them")
        paths = tuple(str(path.parent / Path(place).expanduser()) for place in listed(places))
        groups[plain(name)] = groups.get(plain(name), ()) + paths
    return groups


def plain(name: Any) -> str:
    return texts.plain(str(name))


def listed_as(places: Any) -> list:
    return list(places) if isinstance(places, list | tuple) else [places]


def listed(places: Any) -> tuple[str, ...]:
    return tuple(map(str, listed_as(places)))


@lru_cache(maxsize=1024)
def pictures(places: tuple[str, ...]) -> tuple[Path, ...]:
    """The picture files of some files, folders and globs, sorted place by place."""
    paths: list[Path] = []
    for place in places:
        path = Path(place).expanduser()
        if path.exists() and not path.is_dir():
            files.regular(path, "references", "picture", images.LARGEST)
        near = path.iterdir() if path.is_dir() else matches(path)
        here = [path] if path.is_file() else sorted(one for one in near if is_picture(one))
        if not here:
            raise UserError(f"references: {place} is no picture, nor a folder or glob of pictures")
        paths += here
    return tuple(dict.fromkeys(paths))


def is_picture(path: Path) -> bool:
    shown = not path.name.startswith(".")
    return shown and path.suffix.lower() in PICTURES and path.is_file()


@lru_cache(maxsize=65536)
def openable(path: Path) -> None:
    from PIL import Image

    files.regular(path, "references", "picture", images.LARGEST)
    try:
        Image.open(path).close()
    except (OSError, ValueError, Image.DecompressionBombError):
        raise UserError(f"references: {path} cannot be read as a picture") from None
