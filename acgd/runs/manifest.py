"""What a finished run's folder holds: the sizes and hashes that its status.json promises.

`fault` looks at sizes, which costs a run of a dozen files a tenth of a millisecond; with `hashes`
every byte is read. Runs that were made before there was a manifest promise that nothing is empty.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

KINDS = (".yaml", ".json", ".csv", ".mp4")
FOLDERS = ("images", "previews", "frames")
OWN = ("status.json",)  # it holds the manifest


def take(folder: Path) -> dict[str, dict]:
    """{"images/seed0.png": {"bytes": 2048, "sha256": "..."}, ...} of what is there now."""
    sizes = {}
    for path in kept(folder):
        data = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        sizes[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return sizes


def kept(folder: Path) -> list[Path]:
    """The record's own files; not the log, nor pages and mirrors that are made of it later."""
    top = [path for path in folder.iterdir() if path.suffix in KINDS and path.name not in OWN]
    below = [path for name in FOLDERS for path in (folder / name).glob("*.png")]
    return sorted(path for path in top + below if path.name[0] != "." and path.is_file())


def fault(folder: Path, state: dict, hashes: bool = False) -> str:
    """What of a run that is ok is not as its status.json says, in a few words; "" if it is whole.

    `state`: what is in status.json.
    """
    files = state.get("files")
    if not isinstance(files, dict):
        return without_manifest(folder)
    return next(filter(None, (wrong(folder, name, files[name], hashes) for name in files)), "")


def wrong(folder: Path, name: str, promised: dict, hashes: bool) -> str:
    path = folder / name
    try:
        size = path.stat().st_size
        if size != promised["bytes"]:
            return f"{name} has {size} of {promised['bytes']} bytes"
        if hashes and hashlib.sha256(path.read_bytes()).hexdigest() != promised["sha256"]:
            return f"{name} holds other bytes than were written"
    except (OSError, TypeError, KeyError) as error:
        return f"{name} is {'gone' if isinstance(error, FileNotFoundError) else 'unreadable'}"
    return ""


def without_manifest(folder: Path) -> str:
    try:
        sizes = {path: path.stat().st_size for path in kept(folder)}
    except OSError:
        return "its folder is unreadable"
    empty = [path for path, size in sizes.items() if not size]
    if empty:
        return f"{empty[0].relative_to(folder).as_posix()} is empty"
    return "" if any(path.parent.name == "images" for path in sizes) else "its picture is gone"
