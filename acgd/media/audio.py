"""From a sound file to samples, with everything that can be wrong with the file said in one line.

soundfile opens the file and reads only the part asked for; this module checks what came: some
decoders answer zero samples, or fewer than the header promises, without an error.
Sample rates are in Hz, offsets and durations in seconds. Nothing here imports torch.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from acgd.errors import UserError
from acgd.paths import DEMO

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
SHORTEST = 0.05  # seconds; one analysis frame of the audio head lasts 0.0375 s at 44.1 kHz
SILENCE = 1e-4  # peak; -80 dB, three steps of 16-bit samples
UNKNOWN = 2**62  # libsndfile's frame count for a FLAC stream that never learnt its length
STREAMED = 0x7FFF0000  # WAV data sizes from here on are placeholders written by streaming tools


def load(
    path: str | Path, sample_rate: int, offset: float = 0.0, duration: float = 10.0
) -> np.ndarray:
    """The window [offset, offset + duration) of a sound: (T,) float32, mono, in [-1, 1].

    Channels are averaged, then resampled to `sample_rate` Hz; a file that ends before the window
    does gives a shorter T. Samples beyond full scale (float files, decoders' overshoot) are
    scaled down, not clipped. Raises UserError where there is nothing to be heard.
    """
    wave, rate = read_window(path, offset, duration)
    wave = resample(wave, rate, sample_rate)
    wave = wave[: round(float(duration) * sample_rate)]
    return np.ascontiguousarray(wave / max(1.0, float(np.abs(wave).max())), dtype=np.float32)


def resample(wave: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """(T,) samples at `rate` Hz as float32 samples at `sample_rate` Hz; equal rates: untouched."""
    if rate == sample_rate:
        return wave
    import soxr

    return soxr.resample(wave, rate, sample_rate, quality="HQ")


def check(path: str | Path, offset: float = 0.0, duration: float = 10.0) -> None:
    """Raise the UserError that `load` would raise; costs milliseconds."""
    read_window(path, offset, duration)


def read_window(path: str | Path, offset: float, duration: float) -> tuple[np.ndarray, int]:
    """The window at the file's own rate, mono float32 (T,), and that rate in Hz."""
    offset = seconds(offset, "offset")
    duration = seconds(duration, "duration")
    if duration < SHORTEST:
        raise UserError(f"prompt.duration is {duration:g} s: at least {SHORTEST:g} s are needed")
    path = resolve(path)
    if path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes)")
    if not path.is_file():
        what = "is not a file" if path.exists() else "no such sound file"
        raise UserError(f"{path}: {what}; give prompt.path a wav, flac, ogg or mp3 file")
    try:
        file = soundfile.SoundFile(path)
    except PermissionError:
        raise UserError(f"{path}: may not be read (permission denied)") from None
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"{path}: not a sound file that can be read here ({reason(error)}); "
            "convert it to wav, flac, ogg or mp3"
        ) from None
    with file:
        rate = file.samplerate
        wave = _read(file, path, offset, duration)
    _refuse_nothing(wave, rate, path, offset)
    return wave, rate


def _read(file: soundfile.SoundFile, path: Path, offset: float, duration: float) -> np.ndarray:
    """The window's samples, channels averaged; UserError where the file lacks promised samples."""
    rate, promised = file.samplerate, promised_frames(file)
    start, wanted = round(offset * rate), round(duration * rate)
    if promised > UNKNOWN:
        raise UserError(f"{path}: its header gives no length (a stream?); convert it to wav first")
    length = promised / rate
    if promised and start >= promised:
        raise UserError(f"{path}: lasts {length:.2f} s, prompt.offset={offset:g} is past its end")
    wanted, there = min(wanted, promised - start), ""
    try:
        file.seek(min(start, file.frames))
        frames = file.read(wanted, dtype="float32", always_2d=True)  # (T, channels)
    except soundfile.LibsndfileError as error:
        frames, there = np.zeros((0, 1), np.float32), reason(error)
    # Some MP3 headers count the encoder's padding: a tenth of a second may be missing.
    if len(frames) < wanted - 0.1 * rate:
        there = there or f"{(min(start, file.frames) + len(frames)) / rate:.2f} s can be read"
        raise UserError(
            f"{path}: truncated: its header promises {length:.2f} s, {there}; "
            "mend the file or ask for a part that is there"
        )
    return frames.mean(axis=1, dtype=np.float32)


def _refuse_nothing(wave: np.ndarray, rate: int, path: Path, offset: float) -> None:
    """UserError for samples that say nothing: none, too few, not finite, silent."""
    length = len(wave) / rate
    if len(wave) == 0:
        raise UserError(f"{path}: holds no samples")
    if not np.isfinite(wave).all():
        raise UserError(f"{path}: holds samples that are not numbers (NaN or infinite)")
    if length < SHORTEST:
        raise UserError(
            f"{path}: too short: {len(wave)} samples ({length:.4f} s) from {offset:g} s on, "
            f"at least {SHORTEST:g} s are needed"
        )
    if np.abs(wave).max() < SILENCE:
        raise UserError(
            f"{path}: silent from {offset:g} to {offset + length:g} s; "
            "choose another part with prompt.offset and prompt.duration"
        )


def promised_frames(file: soundfile.SoundFile) -> int:
    """Frames that the header speaks of: libsndfile cuts a truncated WAV's count in silence."""
    size = re.search(r"^data : (\d+) \(should be \d+\)", file.extra_info, re.MULTILINE)
    align = re.search(r"Block Align\s*: (\d+)", file.extra_info)
    if not size or not align or not 0 < int(size[1]) < STREAMED or not int(align[1]):
        return file.frames
    return max(file.frames, int(size[1]) // int(align[1]))


def find(path: str | Path | Sequence[str | Path]) -> list[str]:
    """The sound files that `path` names; UserError where there are none.

    A file (its suffix does not matter), a folder (searched to the bottom, by suffix, sorted), a
    glob ("sounds/**/*.wav"), "demo:NAME" for a sound that ships with the package, or a list of
    any of these. No file comes twice; lists keep their order.
    """
    if not isinstance(path, Sequence) or isinstance(path, str):
        return _find_one("" if path is None else str(path))
    found = [file for one in path for file in _find_one(str(one))]
    if not found:
        raise UserError("prompt.path is an empty list: name at least one sound file")
    return list(dict.fromkeys(found))


def _find_one(path: str) -> list[str]:
    if not path.strip():
        raise UserError("prompt.path is empty: name a sound file, a folder or a glob")
    plain = resolve(path)
    if plain.is_file():
        return [path if path.startswith("demo:") else str(plain)]
    if plain.is_dir():
        matches, where = plain.rglob("*"), f"the folder {plain}"
    elif glob.has_magic(path):
        matches, where = map(Path, glob.glob(str(plain), recursive=True)), f"the glob {path}"
    else:
        raise UserError(f"{path}: no such sound file, folder or glob; see prompt.path")
    found = [str(file) for file in matches if file.is_file() and file.suffix.lower() in SUFFIXES]
    if not found:
        raise UserError(f"no sound files in {where} (looked for {', '.join(SUFFIXES)})")
    return sorted(found)


def resolve(path: str | Path) -> Path:
    """A path with "~" spelled out, or the packaged file that "demo:NAME" stands for."""
    text = str(path)
    if not text.startswith("demo:"):
        return Path(text).expanduser()
    sounds = {file.stem: file for file in sorted(DEMO.glob("*")) if file.suffix in SUFFIXES}
    name = text.removeprefix("demo:")
    if name not in sounds:
        raise UserError(f"{text}: no such demo sound; there are {', '.join(sounds) or 'none'}")
    return sounds[name]


def seconds(value: float, name: str) -> float:
    """A finite, non-negative number of seconds; UserError names the config key otherwise."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise UserError(f"prompt.{name}={value}: must be a number of seconds, not below 0")
    return number


def reason(error: soundfile.LibsndfileError) -> str:
    """libsndfile's own words on one line."""
    return " ".join(str(error.error_string).split()).removeprefix("Error : ").rstrip(".")
