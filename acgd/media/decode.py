"""One way in for every sound file: any part of it as samples, read to the end where need be.

libsndfile reads what it knows; what hides from it is first mended in memory (containers, mpeg, ogg,
flac). AAC, WMA, WebM and the sound of films go through PyAV (the extra "media"), or ffmpeg where
that is installed. Nothing here imports torch.
"""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import subprocess
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from acgd.errors import UserError
from acgd.media import containers, files, flac, mpeg, ogg

UNKNOWN = 2**62  # libsndfile's frame count for a stream that never learnt its length
IN_MEMORY = 2**30  # bytes; MP3 and Ogg files are looked through whole
MOST_SAMPLES = 2**29  # a window of all channels: 2 GiB as float32
BLOCK = 1 << 16  # samples read at a time where a file cannot be sought in
PATIENCE = 60  # seconds for ffmpeg
GUESSED = ("aac", "mp3", "ac3", "eac3", "loas", "amr")  # formats without a length of their own
ONE_AT_A_TIME = threading.RLock()  # while stderr is elsewhere


@dataclass
class Window:
    """Samples (T, channels) float32 at `rate` Hz, and what is known of the whole file.

    length: seconds in the whole, None where only reading on would tell. promised: seconds that the
    header speaks of. end: seconds up to which could be read.
    """

    samples: np.ndarray
    rate: int
    length: float | None
    promised: float
    end: float
    why: str = ""  # what ended the reading, in the decoder's words
    notes: list[str] = field(default_factory=list)


def read(path: Path, offset: float, duration: float) -> Window:
    """The window [offset, offset + duration) in seconds; UserError for what is no sound."""
    size = files.regular(path, "prompt.path", "sound")
    if kind := not_a_sound(path):
        raise UserError(
            f"{path}: is {kind}, not a sound file; a download that failed? fetch it again, or give "
            "prompt.path a wav, flac, ogg or mp3 file"
        )
    try:
        return read_here(path, size, offset, duration)
    except soundfile.LibsndfileError as error:
        why = reason(error)
    if path.suffix.lower() == ".raw":
        raise UserError(f"{path}: raw samples without a header; convert it to wav first")
    return read_elsewhere(path, offset, duration, why)


def not_a_sound(path: Path) -> str | None:
    content = files.head(path)
    if content[:4] in (b"RIFF", b"RF64") and content[8:12] == b"WAVE":
        return None
    return files.looks_like(content)


def read_here(path: Path, size: int, offset: float, duration: float) -> Window:
    """By libsndfile, piece by piece; LibsndfileError where it opens nothing."""
    with hushed(), open(path, "rb") as file:
        pieces, ratio, notes = mended(file, path, size)
        sounds = [soundfile.SoundFile(piece) for piece in pieces]
        return join(sounds, path, ratio, notes, offset, duration)


@contextmanager
def hushed() -> Generator[None]:
    """Without what libmpg123 writes past Python to stderr, of frames that it leaves out."""
    with ONE_AT_A_TIME:
        try:
            kept = os.dup(2)
        except OSError:  # there is no stderr
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def mended(file: BinaryIO, path: Path, size: int) -> tuple[list, float, list[str]]:
    """File objects for libsndfile, how often the header promises what is there, and notes."""
    head = file.read(files.HEAD)
    stamp = (str(path), path.stat().st_mtime_ns, size)
    if head.startswith(b"OggS"):
        pieces, whole = ogg_pieces(*stamp)
        notes = [] if whole else [f"{path}: has no end mark (cut, or recorded from a stream)"]
        return [io.BytesIO(piece) for piece in pieces], 1.0, notes
    is_mp3 = head.startswith(b"ID3") or (head[:1] == b"\xff" and head[1:2] > b"\xdf")
    if is_mp3 and (pieces := mp3_pieces(*stamp)):
        return [io.BytesIO(piece) for piece in pieces], 1.0, []
    own = open(path, "rb", buffering=BLOCK)  # noqa: SIM115 (closed with its SoundFile)
    if patches := flac.patch(own, size):
        own.seek(0)
        return [containers.Patched(own, patches)], 1.0, []
    fit, ratio = containers.mended(own, size)
    return [fit], ratio, []


@lru_cache(maxsize=4)
def ogg_pieces(path: str, _changed: int, size: int) -> tuple[list[bytes], bool]:
    return ogg.pieces(content(path, size))


@lru_cache(maxsize=4)
def mp3_pieces(path: str, _changed: int, size: int) -> list[bytes]:
    return mpeg.pieces(content(path, size))


def content(path: str, size: int) -> bytes:
    files.regular(Path(path), "prompt.path", "sound", IN_MEMORY)
    with open(path, "rb") as file:
        return file.read(size)


def join(
    sounds: list[soundfile.SoundFile],
    path: Path,
    ratio: float,
    notes: list[str],
    offset: float,
    duration: float,
) -> Window:
    """The window across pieces that follow each other; all at the first one's rate and channels."""
    if not sounds:
        raise UserError(f"{path}: holds no samples")
    rate, channels = sounds[0].samplerate, sounds[0].channels
    if len(sounds) > 1:
        notes.append(f"{path}: {len(sounds)} sounds joined in one file, heard one after the other")
    begin, pieces, why, done = 0.0, [], "", offset
    for sound in sounds:
        with sound:
            lasts = sound.frames / sound.samplerate
            start = max(offset - begin, 0.0)
            wanted = offset + duration - max(begin, offset)
            if start < lasts and wanted > 0:
                samples, why = part(sound, path, start, wanted)
                pieces.append(fitted(samples, sound.samplerate, rate, channels))
                done = begin + start + len(samples) / sound.samplerate
            begin += lasts
    samples = np.concatenate(pieces) if pieces else np.zeros((0, channels), np.float32)
    starts = begin if begin < UNKNOWN / rate else None
    return Window(samples, rate, starts, begin * ratio, done if pieces else begin, why, notes)


def part(
    sound: soundfile.SoundFile, path: Path, start: float, wanted: float
) -> tuple[np.ndarray, str]:
    """(T, channels) from `start` seconds on, and why it is less than asked for."""
    first = round(start * sound.samplerate)
    count = min(round(wanted * sound.samplerate), sound.frames - first)
    if count * sound.channels > MOST_SAMPLES:
        raise UserError(f"{path}: {wanted:g} s are too much to hear at once; lower prompt.duration")
    try:
        if sound.seekable():
            sound.seek(first)
        else:
            skip(sound, first)
        return sound.read(count, dtype="float32", always_2d=True), ""
    except soundfile.LibsndfileError as error:
        return np.zeros((0, sound.channels), np.float32), reason(error)


def skip(sound: soundfile.SoundFile, count: int) -> None:
    while count > 0:
        count -= len(sound.read(min(count, BLOCK), always_2d=True)) or count


def fitted(samples: np.ndarray, own: int, rate: int, channels: int) -> np.ndarray:
    """(T, any) at `own` Hz as (T, channels) at `rate` Hz."""
    if samples.shape[1] != channels:
        samples = np.repeat(samples.mean(1, keepdims=True), channels, axis=1)
    if own == rate:
        return samples
    import soxr

    return soxr.resample(samples, own, rate, quality="HQ")


def reads_films() -> bool:
    """Whether there is something that decodes AAC, WMA and films."""
    return importlib.util.find_spec("av") is not None or shutil.which("ffmpeg") is not None


def read_elsewhere(path: Path, offset: float, duration: float, why: str) -> Window:
    """By PyAV, or ffmpeg; UserError where neither is there or can read it."""
    if importlib.util.find_spec("av") is not None:
        return read_av(path, offset, duration)
    if shutil.which("ffmpeg"):
        return read_ffmpeg(path, offset, duration)
    raise UserError(
        f"{path}: not a sound file that can be read here ({why}); for m4a, aac, wma, webm and mp4: "
        'pip install "acgd[media]" (or ffmpeg); else convert it to wav, flac, ogg or mp3'
    )


def refused(path: Path, why: object) -> UserError:
    return UserError(
        f"{path}: not a sound file that can be read here ({why}); "
        "convert it to wav, flac, ogg or mp3"
    )


def read_av(path: Path, offset: float, duration: float) -> Window:
    """Decoded from the start, so that an offset hits its sample whatever the index says."""
    import av

    try:
        with av.open(str(path), metadata_errors="replace") as file:
            if not file.streams.audio:
                raise UserError(f"{path}: holds no sound track")
            stream = file.streams.audio[0]
            rate, length = getattr(stream, "rate", None), None  # none of a codec nobody knows
            if not rate:
                raise refused(path, "its sound track has no sample rate")
            if file.duration is not None and file.format.name not in GUESSED:
                length = file.duration / av.time_base
            samples, end, why = collect(frames_of(file, stream), rate, offset, duration)
    except (av.error.FFmpegError, ValueError) as error:
        raise refused(path, getattr(error, "strerror", None) or "its parts are damaged") from None
    return Window(samples, rate, length, end if length is None else length, end, why)


def frames_of(file, stream) -> Generator[np.ndarray, None, None]:
    """(T, channels) float32, as they come; ends early, with an FFmpegError, in a damaged file."""
    import av

    same = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
    for frame in file.decode(stream):
        for one in same.resample(frame):
            yield one.to_ndarray().T
    for one in same.resample(None):
        yield one.to_ndarray().T


def collect(
    frames: Generator[np.ndarray, None, None], rate: int, offset: float, duration: float
) -> tuple[np.ndarray, float, str]:
    """The window of frames that follow each other, where it ends in seconds, why it ended."""
    import av

    first, last = round(offset * rate), round((offset + duration) * rate)
    at, kept, why = 0, [], ""
    with closing(frames):
        try:
            for samples in frames:
                if at + len(samples) > first:
                    kept.append(samples[max(first - at, 0) : last - at])
                at += len(samples)
                if at >= last or at * samples.shape[1] > first + MOST_SAMPLES:
                    break
        except av.error.FFmpegError as error:
            why = error.strerror or "damaged"
    found = np.concatenate(kept) if kept else np.zeros((0, 1), np.float32)
    return found.astype(np.float32), min(at, last) / rate, why


def read_ffmpeg(path: Path, offset: float, duration: float) -> Window:
    """The start of the file up to the window's end, decoded by the ffmpeg program."""
    name = f"file:{path.absolute()}"
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", name, "-vn", "-t", f"{offset + duration}"]
    command += ["-c:a", "pcm_f32le", "-f", "wav", "-"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise refused(path, f"ffmpeg took over {PATIENCE} s") from None
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    if not done.stdout:
        raise refused(path, said[-1] if said else "ffmpeg found no sound")
    fit, _ = containers.mended(io.BytesIO(done.stdout), len(done.stdout))
    window = join([soundfile.SoundFile(fit)], path, 1.0, [], offset, duration)
    window.length = None  # what lies behind the window was not decoded
    return window


def reason(error: soundfile.LibsndfileError) -> str:
    """libsndfile's own words on one line."""
    return " ".join(str(error.error_string).split()).removeprefix("Error : ").rstrip(".")
