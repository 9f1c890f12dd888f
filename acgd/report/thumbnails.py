"""Thumbnails, strips of previews and animations, made once and kept while they are up to date.

A picture that cannot be read has none of these; that never stops a page.
"""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

from PIL import Image

from acgd.atomic_files import write

THUMB = 192  # pixels of a side
FRAME = 160  # of a preview in a strip
MOVIE = 256
FRAMES = 24  # of a strip or an animation at most, spread evenly
PACE, LAST = 150, 2000  # ms that a preview and the picture are shown
UNREADABLE = (OSError, SyntaxError, ValueError)  # what Pillow raises for torn files


def fresh(target: Path, source: Path | None) -> bool:
    """Whether target is there and not older than its source, which may be gone."""
    try:
        made = target.stat()
        return made.st_size > 0 and (source is None or made.st_mtime >= source.stat().st_mtime)
    except FileNotFoundError:
        return target.is_file()


def place(source: Path, target: Path) -> None:
    """The same file at another place: a hard link where the disk allows it, else a copy."""
    there, wanted = target.stat() if target.exists() else None, source.stat()
    if there and (there.st_mtime_ns, there.st_size) == (wanted.st_mtime_ns, wanted.st_size):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copy2(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def opened(source: Path) -> Image.Image:
    """Pillow's picture; OSError for a pipe or a device, whose reading might never end."""
    if not source.is_file():
        raise OSError(f"{source} is no file")
    return Image.open(source)


def thumb(source: Path, target: Path, side: int = THUMB) -> bool:
    """The picture as a small JPEG; whether it is there now."""
    if fresh(target, source):
        return True
    try:
        with opened(source) as image:
            small = image.convert("RGB")
            small.thumbnail((side, side), Image.Resampling.BILINEAR)
            save(small, target)
    except UNREADABLE:
        return False
    return True


def strip(sources: list[Path], target: Path) -> bool:
    """Previews side by side in one JPEG, each FRAME pixels wide; whether it is there now.

    There is no strip of a single one, which is the picture.
    """
    if len(sources) < 2:
        return False
    if fresh(target, sources[-1]):
        return True
    sheet = Image.new("RGB", (FRAME * len(sources), FRAME))
    try:
        for i, source in enumerate(sources):
            with opened(source) as image:
                small = image.convert("RGB").resize((FRAME, FRAME), Image.Resampling.BILINEAR)
            sheet.paste(small, (FRAME * i, 0))
        save(sheet, target)
    except UNREADABLE:
        return False
    return True


def animation(previews: list[Path], picture: Path, target: Path) -> bool:
    """The previews one after the other as a WebP that ends on the picture, held longer."""
    if fresh(target, picture):
        return True
    frames = []
    try:
        for source in [*previews, picture]:
            with opened(source) as image:
                frames.append(image.convert("RGB"))
                frames[-1].thumbnail((MOVIE, MOVIE))
        durations = [PACE] * len(previews) + [LAST]
        save(frames[0], target, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    except UNREADABLE:
        return False
    return True


def save(image: Image.Image, target: Path, **options: object) -> None:
    """As WebP or JPEG, by the target's suffix; JPEG takes a tenth of the time."""
    buffer = io.BytesIO()
    if target.suffix == ".webp":
        image.save(buffer, "WEBP", quality=80, method=2, **options)
    else:
        image.save(buffer, "JPEG", quality=82)
    target.parent.mkdir(parents=True, exist_ok=True)
    write(target, buffer.getvalue())


def spread(sources: list[Path]) -> list[Path]:
    """At most FRAMES of them, evenly, the last one among them."""
    if len(sources) <= FRAMES:
        return sources
    return [sources[round(i * (len(sources) - 1) / (FRAMES - 1))] for i in range(FRAMES)]
