"""Frames and sound as files that can be watched: an mp4, a small webp, a strip of what is heard."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from acgd import atomic_files
from acgd.errors import UserError
from acgd.media import audio as sounds
from acgd.pipeline.film.hearing import Stretch

SOUND_RATE = 44100
SMALL_SECONDS, SMALL_FPS, SMALL_SIDE, SMALL_MOST = 30.0, 8, 160, 160
STRIP_SIDE, STRIP_MOST, BAR = 128, 12, 18  # pixels, stretches, pixels of the bar of time


def mp4(frames: Sequence[Path], sound: str, fps: float, place: Path) -> None:
    """H.264 and AAC; `frames` is a picture file for each frame, the sound starts with the first."""
    av = library()
    temporary = atomic_files.temporary_name(place)
    picture = lru_cache(maxsize=8)(lambda path: np.asarray(Image.open(path).convert("RGB")))
    height, width = picture(frames[0]).shape[:2]
    options = {"movflags": "faststart"}
    with av.open(str(temporary), "w", format="mp4", options=options) as container:
        rate = Fraction(fps).limit_denominator(1000)
        video = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        samples, sent = sounds.pieces(sound, SOUND_RATE), 0
        for i, path in enumerate(frames):
            while sent <= i / fps * SOUND_RATE and (piece := next(samples, None)) is not None:
                container.mux(audio.encode(of_sound(av, piece, sent)))
                sent += len(piece)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(path), format="rgb24")))
        container.mux(video.encode())
        container.mux(audio.encode())
    atomic_files.commit(temporary, place)


def library():
    try:
        import av
    except ImportError:
        raise UserError("a film needs the extra: pip install 'acgd[media]'") from None
    return av


def of_sound(av, piece: np.ndarray, start: int):
    frame = av.AudioFrame.from_ndarray(piece[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = SOUND_RATE, start
    frame.time_base = Fraction(1, SOUND_RATE)
    return frame


def webp(frames: Sequence[Path], fps: float, place: Path) -> bool:
    """A small film without sound, of films that are short; whether there is one."""
    if len(frames) / fps > SMALL_SECONDS:
        return False
    every = max(1, round(fps / SMALL_FPS), -(-len(frames) // SMALL_MOST))
    small = [Image.open(path).convert("RGB").resize((SMALL_SIDE,) * 2) for path in frames[::every]]
    buffer, pause = io.BytesIO(), round(1000 * every / fps)
    small[0].save(buffer, "WEBP", save_all=True, append_images=small[1:], duration=pause, loop=0,
                  quality=70, method=2)  # fmt: skip
    atomic_files.write(place, buffer.getvalue())
    return True


def strip(found: Sequence[Stretch], looks: dict[str, Path]) -> Image.Image:
    """The timeline: a picture of each stretch with its time, and a bar of all time below."""
    shown = sorted(sorted(found, key=lambda s: s.start - s.end)[:STRIP_MOST], key=lambda s: s.start)
    width = max(3, len(shown)) * STRIP_SIDE
    sheet = Image.new("RGB", (width, STRIP_SIDE + 2 * BAR), "white")
    draw = ImageDraw.Draw(sheet)
    for i, stretch in enumerate(shown):
        with Image.open(looks[stretch.label]) as image:
            sheet.paste(image.convert("RGB").resize((STRIP_SIDE,) * 2), (i * STRIP_SIDE, 0))
        said = f"{stretch.start:.0f} s {stretch.label}"
        draw.text((i * STRIP_SIDE + 3, STRIP_SIDE + 1), said[:22], fill="black", font_size=11)
    names = list(dict.fromkeys(stretch.label for stretch in found))
    for stretch in found:
        ends = [round(t / found[-1].end * width) for t in (stretch.start, stretch.end)]
        box = (ends[0], STRIP_SIDE + BAR + 2, max(ends[0], ends[1] - 1), STRIP_SIDE + 2 * BAR - 1)
        draw.rectangle(box, fill=colour(names.index(stretch.label)))
    return sheet


def colour(number: int) -> tuple[int, ...]:
    """Colours as far apart as the golden ratio puts their hues."""
    rgb = colorsys.hsv_to_rgb(number * 0.618 % 1, 0.47, 0.82)
    return tuple(round(255 * part) for part in rgb)
