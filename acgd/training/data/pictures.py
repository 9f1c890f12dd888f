"""Pictures to train on: seven open emoji sets rendered at 256 pixels, labelled with sound concepts.

One row per picture: pixels (256, 256, 3) uint8 on white, the set it comes from, its emoji, its
Unicode name and keywords, and the concept it shows ("" for the others, which fill in as related
pictures). About one picture per concept is held out, chosen by a checksum, to measure encoders.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

from acgd.paths import CONCEPTS
from acgd.training.data import sources

TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
SIDE = 256  # pixels
BITMAPS = {"fluent3d": "assets/"}
VECTORS = ("noto", "twemoji", "fluentflat", "notov1", "emojione", "fxemoji")
# FxEmoji has names of its own and no character table; these are the concepts' pictures whose name
# differs from Unicode's.
FXEMOJI = {
    "dogside": "🐕",
    "dog": "🐶",
    "poodle": "🐩",
    "catside": "🐈",
    "cat": "🐱",
    "cow": "🐄",
    "cowface": "🐮",
    "pigside": "🐖",
    "pig": "🐷",
    "horse": "🐎",
    "horseface": "🐴",
    "chicken": "🐔",
    "frontfacingchick": "🐥",
    "babychick": "🐤",
    "wolfface": "🐺",
    "honeybee": "🐝",
    "raincloud": "🌧️",
    "umbrellawithraindrops": "☔",
    "wave": "🌊",
    "leaffluttering": "🍃",
    "nationalpark": "🏞️",
    "collision": "💥",
    "fireworksparkler": "🎇",
    "pistol": "🔫",
    "oncomingautomobile": "🚘",
    "automobile": "🚗",
    "racecar": "🏎️",
    "deliverytruck": "🚚",
    "articulatedlorry": "🚛",
    "oncomingbus": "🚍",
    "policecar": "🚓",
    "policecarsrevolvinglight": "🚨",
    "steamlocomotive": "🚂",
    "alarmclock": "⏰",
    "manltepiececlock": "🕰️",
    "clock3oclock": "🕒",
    "bell": "🔔",
    "blacktelephone": "☎️",
    "telephonereceiver2": "📞",
    "wiredkeyboard": "⌨️",
    "camerawithflash": "📸",
    "moneybag": "💰",
    "clap": "👏",
    "grintears": "😂",
    "screamfear": "😱",
    "medicalmask": "😷",
    "mensshoe": "👟",
    "redheart": "❤️",
    "beating-heart": "💓",
    "musicalkeyboard": "🎹",
    "microphone": "🎤",
    "videogame": "🎮",
    "alienmonster": "👾",
    "speakingheadinsilhouette": "🗣️",
    "satelliteantenna": "📡",
    "windchime": "🎐",
    "postalhorn": "📯",
    "lightningmood": "⚡",
    "highspeedtrain": "🚄",
}


def code(emoji: str) -> str:
    """Hex code points joined by '-', without the presentation mark fe0f."""
    return "-".join(f"{ord(c):x}" for c in emoji if c != "\ufe0f")


def read_concepts(path: Path = CONCEPTS) -> list[dict[str, str]]:
    """The rows of the concept table."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def on_white(image: Image.Image, side: int) -> np.ndarray:
    """(side, side, 3) uint8: the picture scaled to fit, centred on white."""
    image = image.convert("RGBA")
    if max(image.size) != side:
        scale = side / max(image.size)
        size = [max(1, round(length * scale)) for length in image.size]
        image = image.resize(size, Image.Resampling.LANCZOS)
    page = Image.new("RGBA", (side, side), "white")
    page.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(page.convert("RGB"))


def bitmaps(style: str, cache: Path) -> list[tuple[str, bytes]]:
    """(emoji code, PNG or WebP bytes) of every picture of a bitmap set."""
    folder = sources.members(sources.npm(style, cache), BITMAPS[style])
    return [(_bare(Path(path).stem), data) for path, data in sorted(folder.items())]


def vectors(style: str, cache: Path, names: dict[str, str]) -> list[tuple[str, str]]:
    """(emoji code, SVG) of every picture of a vector set; `names` maps squeezed names to codes."""
    files = sources.members(sources.npm(style, cache))
    icons = json.loads(files["icons.json"])
    known = {name: _bare(hexes) for hexes, name in _chars(files)}
    if style == "fxemoji":
        names = names | {name: code(emoji) for name, emoji in FXEMOJI.items()}
    found = []
    for name, icon in sorted(icons["icons"].items()):
        emoji = known.get(name) or names.get(name if name in names else squeeze(name))
        if emoji:
            found.append((emoji, _svg(icons | icon)))
    return found


def squeeze(name: str) -> str:
    """A name's ASCII letters and digits only: 'Piñata face' -> 'pinataface'."""
    plain = unicodedata.normalize("NFKD", name.lower())
    return re.sub(r"[^a-z0-9]", "", plain)


def held_out(names: list[str], keep: int = 4) -> int | None:
    """Index of the picture that a concept sets aside, or None where fewer than keep stay."""
    if len(names) <= keep:
        return None
    return min(range(len(names)), key=lambda i: crc32(names[i].encode()))


def build(out: Path, cache: Path) -> dict[str, np.ndarray]:
    """Render everything and write `out`/pictures_256.npz and, averaged down to 64 pixels a side,
    pictures.npz, row by row the same; the latter's arrays."""
    table = json.loads(_only(sources.members(sources.npm("names", cache), "data-by-emoji.json")))
    words = json.loads(_only(sources.members(sources.npm("keywords", cache), "dist/emoji-en-US")))
    base = {code(emoji): dict(row, char=emoji) for emoji, row in table.items()}
    words = {code(emoji): kept for emoji, kept in words.items()}
    concept = {code(e): r["concept"] for r in read_concepts() for e in r["emoji"].split()}
    slugs = {squeeze(row["name"]): hexes for hexes, row in base.items()}

    jobs = [(style, emoji, data) for style in BITMAPS for emoji, data in bitmaps(style, cache)]
    jobs += [(style, e, svg) for style in VECTORS for e, svg in vectors(style, cache, slugs)]
    jobs = [job for job in jobs if job[1] in base or _toned(job[1]) in concept]
    jobs = list({(style, emoji): (style, emoji, data) for style, emoji, data in jobs}.values())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pixels = list(pool.map(lambda job: _render(job[2], SIDE), jobs))

    rows = []
    for (style, emoji, _), picture in zip(jobs, pixels, strict=True):
        plain = emoji if emoji in base else _toned(emoji)
        shown = "" if (style, plain) in MISLEADING else concept.get(plain, "")
        about = base[plain]
        rows.append((picture, style, emoji, about["name"], ",".join(words.get(plain, [])),
                     about["group"], shown))  # fmt: skip
    arrays = _columns(rows)
    _write(out / "pictures_256.npz", arrays)
    arrays["pixels"] = np.stack([smaller(picture) for picture in arrays["pixels"]])
    _write(out / "pictures.npz", arrays)
    return arrays


def smaller(picture: np.ndarray) -> np.ndarray:
    """(256, 256, 3) to (64, 64, 3) uint8, the mean of each square of four by four."""
    squares = picture.reshape(64, SIDE // 64, 64, SIDE // 64, 3)
    return squares.mean((1, 3)).round().astype(np.uint8)


# Pictures that carry a concept's emoji but do not show it at 64x64 (found by looking at them).
MISLEADING = {
    ("fxemoji", code("🐤")),  # a head without a body
    ("fxemoji", code("🐦")),
    ("fxemoji", code("🏞️")),  # a park without water
    ("notov1", code("🏞️")),
    ("notov1", code("👾")),  # creatures, nothing of a game
    ("emojione", code("👾")),
}


def _columns(rows: list[tuple]) -> dict[str, np.ndarray]:
    names = ("pixels", "style", "emoji", "name", "keywords", "group", "concept")
    arrays = {name: np.array([row[i] for row in rows]) for i, name in enumerate(names)}
    holdout = np.zeros(len(rows), bool)
    for concept in sorted(set(arrays["concept"]) - {""}):
        where = np.flatnonzero(arrays["concept"] == concept)
        chosen = held_out([f"{arrays['style'][i]}/{arrays['emoji'][i]}" for i in where])
        if chosen is not None:
            holdout[where[chosen]] = True
    return arrays | {"holdout": holdout}


def _render(data: bytes | str, side: int) -> np.ndarray:
    import resvg_py

    if isinstance(data, str):
        data = bytes(resvg_py.svg_to_bytes(svg_string=data, width=side, height=side))
    return on_white(Image.open(io.BytesIO(data)), side)


def _svg(icon: dict) -> str:
    """An icon of iconify's json, with its set's defaults, as a file of its own."""
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", 16), icon.get("height", 16)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}" '
        f'color="black">{icon["body"]}</svg>'
    )


def _chars(files: dict[str, bytes]) -> list[tuple[str, str]]:
    return sorted(json.loads(files["chars.json"]).items(), reverse=True)


def _bare(hexes: str) -> str:
    return "-".join(part for part in hexes.lower().split("-") if part != "fe0f")


def _toned(emoji: str) -> str:
    """The emoji code without its skin tone."""
    return "-".join(part for part in emoji.split("-") if part not in TONES)


def _only(files: dict[str, bytes]) -> bytes:
    (data,) = files.values()
    return data


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    os.replace(partial, path)
