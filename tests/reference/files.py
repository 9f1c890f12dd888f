"""Files that golden JSONs name by sha256 but that do not come with them (photos, recordings).

They are looked for in the folders of $ACGD_REFERENCE_FILES (separated like $PATH).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def find(name: str, sha256: str | None = None) -> Path | None:
    """The file, or None where no folder holds one of that name and content."""
    for folder in filter(None, os.environ.get("ACGD_REFERENCE_FILES", "").split(os.pathsep)):
        path = Path(folder).expanduser() / name
        if not path.is_file():
            continue
        if sha256 is None or hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return path
    return None


def needs(name: str, sha256: str | None = None) -> str:
    """What stands in the table in place of an array that cannot be computed."""
    return f"needs {name}" + (f" (sha256 {sha256[:12]}...)" if sha256 else "")
