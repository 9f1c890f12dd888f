"""Whether a file is the published one: by the table's sha256, or by what was recorded here first.

A file whose hash the table does not know is written down in the cache's recorded.json when it
arrives, and held to that from then on.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from acgd import atomic_files
from acgd.checkpoints.registry import Published

SHOWN_FROM = 10**8  # bytes: a shorter check has no progress bar


def is_right(row: Published, place: Path) -> bool:
    """Whether a file that is here is the published one; without a hash, whether it still is."""
    if row.size is not None and place.stat().st_size != row.size:
        return False
    right, digest = expected(row, place), sha256(place)
    if right is None:
        record(row, place, digest, place.stat().st_size, "put there by hand")
    return right in (None, digest)


def expected(row: Published, place: Path) -> str | None:
    """The sha256 that the file has to have: the table's, or the one recorded here before."""
    return row.sha256 or recorded(cache_of(row, place)).get(row.name, {}).get("sha256")


def recorded(cache: Path) -> dict[str, dict]:
    """What arrived here without a known hash: name -> sha256, size, from.

    A damaged file counts as none: what is here is recorded anew.
    """
    try:
        hashes = json.loads((cache / "recorded.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    rows = hashes.items() if isinstance(hashes, dict) else ()
    return {name: row for name, row in rows if isinstance(row, dict)}


def record(row: Published, place: Path, digest: str, size: int, source: str) -> None:
    cache = cache_of(row, place)
    with FileLock(cache / ".recorded.json.lock"):
        content = recorded(cache) | {row.name: {"sha256": digest, "size": size, "from": source}}
        atomic_files.write(cache / "recorded.json", json.dumps(content, indent=1) + "\n")


def cache_of(row: Published, place: Path) -> Path:
    """The cache folder that `place` is in: above it by as many folders as the name has."""
    return place.parents[row.name.count("/")]


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    total = path.stat().st_size
    with (
        open(path, "rb") as file,
        tqdm(
            desc=f"checking {path.name}",
            total=total,
            unit="B",
            unit_scale=True,
            disable=True if total < SHOWN_FROM else None,
            leave=False,
        ) as bar,
    ):
        while chunk := file.read(1 << 22):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()
