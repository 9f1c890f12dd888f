"""Which sound files a prompt's path names: a file, a folder, a glob, a demo sound, a list of them.

What a folder holds beside its sounds is left out with one line; hidden files (macOS keeps "._x"
beside x) are passed over in silence.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from acgd.errors import UserError, say_once
from acgd.media import decode, files
from acgd.paths import DEMO, at_home

HERE: tuple[str, ...] = (
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".mp2",
    ".aif",
    ".aiff",
    ".aifc",
    ".au",
)
HERE += (".snd", ".caf", ".w64", ".rf64", ".voc", ".wave")
ELSEWHERE: tuple[str, ...] = (
    ".m4a",
    ".aac",
    ".wma",
    ".webm",
    ".mp4",
    ".mka",
    ".mkv",
    ".mov",
    ".m4b",
    ".3gp",
)
ELSEWHERE += (
    ".amr",
    ".ac3",
    ".ape",
    ".wv",
    ".tta",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".ogv",
    ".mpga",
)
SUFFIXES = HERE + ELSEWHERE
MARKS = (b"fLaC", b"OggS", b"ID3", b"caff", b".snd")
DEEPEST = 64  # folders below a folder
NAMED = 5  # files named in a line about many


def find(path: str | Path | Sequence[str | Path]) -> list[str]:
    """The sound files that `path` names; UserError where there are none.

    A file (its suffix does not matter), a folder (searched to the bottom, by suffix, sorted), a
    glob ("sounds/**/*.wav"), "demo:NAME" for a sound that ships with the package, or a list of
    any of these. No file comes twice; lists keep their order.
    """
    if not isinstance(path, Sequence) or isinstance(path, str):
        return _find_one("" if path is None else str(path))
    files = [file for one in path for file in _find_one(str(one))]
    if not files:
        raise UserError("prompt.path is an empty list: name at least one sound file")
    return list(dict.fromkeys(files))


def _find_one(path: str) -> list[str]:
    if not path.strip():
        raise UserError("prompt.path is empty: name a sound file, a folder or a glob")
    plain = resolve(path)
    if refusal := unusable(plain):
        raise UserError(f"{plain}: {refusal}")
    if os.path.lexists(plain) and not plain.is_dir():
        return [path if path.startswith("demo:") else str(plain)]
    if plain.is_dir():
        return sounds_of(list(walk(plain)), f"the folder {plain}")
    if glob.has_magic(path):
        return sounds_of(list(matches(plain)), f"the glob {path}")
    raise UserError(f"{path}: no such sound file, folder or glob; see prompt.path")


def sounds_of(all_files: list[Path], where: str) -> list[str]:
    """The sounds among some files, sorted; what is left out is said, with reasons."""
    files, reasons = [], defaultdict(list)
    for path in sorted(all_files):
        reason = unusable(path) or left_out(path)
        if reason:
            reasons[reason].append(path.name)
        else:
            files.append(str(path))
    parts = [f"{listing(names)} ({reason})" for reason, names in reasons.items()]
    if not files:
        beside = f"; left out: {'; '.join(parts)}" if parts else ""
        raise UserError(f"no sound files in {where} (looked for {', '.join(HERE)}){beside}")
    if parts:
        say_once(f"{where}: left out {'; '.join(parts)}")
    return files


def left_out(path: Path) -> str | None:
    """Why a folder's file is not taken for a sound."""
    if not path.is_file():
        return "a broken link" if path.is_symlink() and not path.exists() else "no file"
    suffix = path.suffix.lower()
    if suffix in ELSEWHERE and not decode.reads_films():
        return 'needs pip install "acgd[media]", or ffmpeg'
    if suffix in SUFFIXES or marked(path):
        return None
    return "no sound"


def marked(path: Path) -> bool:
    """Whether a file begins as sounds do, whatever its name."""
    try:
        head = files.head(path)[:12]
    except OSError:
        return False
    named = head[:4] in (b"RIFF", b"RF64", b"FORM") and head[8:12] in (b"WAVE", b"AIFF", b"AIFC")
    return named or head.startswith(MARKS)


def unusable(path: Path) -> str | None:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    return None


def listing(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def walk(folder: Path, wanted: Callable[[str], object] = bool) -> Iterator[Path]:
    """The files below a folder but hidden ones; each folder is entered once, links or not.

    Runs and pages, which keep copies of sounds, are passed over unless `folder` is one of them.
    wanted: asked of each file's path relative to the folder.
    """
    seen = set()
    for root, below, names in os.walk(folder, followlinks=True):
        here = os.stat(root)
        near = os.path.relpath(root, folder)
        if (here.st_dev, here.st_ino) in seen or near.count(os.sep) > DEEPEST:
            below.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        if near != "." and {"config.yaml", "status.json"} <= set(names):
            below.clear()
            continue
        pages = {"report"} if "report.html" in names else set()
        below[:] = sorted(name for name in below if name[0] != "." and name not in pages)
        for name in names:
            if not name.startswith(".") and wanted(os.path.normpath(os.path.join(near, name))):
                yield Path(root, name)


def matches(pattern: Path) -> Iterator[Path]:
    """The files that a glob names, "**" standing for any folders, through links but never round."""
    parts = pattern.parts
    if "**" not in parts:
        paths = map(Path, glob.glob(str(pattern)))
        yield from (path for path in paths if not path.is_dir())
        return
    first = parts.index("**")
    expression = re.compile(translated(parts[first:]))
    for start in sorted(glob.glob(str(Path(*parts[:first])))) if first else ["."]:
        if os.path.isdir(start):
            yield from walk(Path(start), expression.fullmatch)


def translated(parts: Sequence[str]) -> str:
    """A glob's parts as a regular expression for relative paths."""
    *folders, last = parts
    steps = [
        "(?:[^/]+/)*"
        if part == "**"
        else fnmatch.translate(part)[4:-3].replace(".*", "[^/]*") + "/"
        for part in folders
    ]
    name = ".*" if last == "**" else fnmatch.translate(last)[4:-3].replace(".*", "[^/]*")
    return "".join(steps) + name


def resolve(path: str | Path) -> Path:
    """A path with "~" spelled out, or the packaged file that "demo:NAME" stands for."""
    text = str(path)
    if not text.startswith("demo:"):
        return at_home(text)
    sounds = {file.stem: file for file in sorted(DEMO.glob("*")) if file.suffix in SUFFIXES}
    name = text.removeprefix("demo:")
    if name not in sounds:
        raise UserError(f"{text}: no such demo sound; there are {', '.join(sounds) or 'none'}")
    return sounds[name]
