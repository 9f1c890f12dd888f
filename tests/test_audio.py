"""acgd.media.audio: what comes out of sound files, and what is said of those that hold nothing."""

import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from acgd.errors import UserError
from acgd.media import audio

RATE = 22050


def tone(seconds=1.0, hertz=440.0, rate=RATE, level=0.5):
    time = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hertz * time)).astype("f4")


def write(path, samples, rate=RATE, **kwargs):
    soundfile.write(path, samples, rate, **kwargs)
    return path


def write_hours(path, samples, at=0.0, hours=3):
    """A WAV of three hours at 8 kHz, silent but for `samples`; the silence is a hole on disk."""
    size = hours * 3600 * 8000 * 2
    write(path, samples, 8000)
    with open(path, "r+b") as file:
        header, content = file.read(44), file.read()
        file.seek(44)
        file.write(bytes(len(content)))
        file.seek(44 + int(at * 3600 * 8000) * 2)
        file.write(content)
        file.truncate(44 + size)
        file.seek(0)
        file.write(
            header[:4] + struct.pack("<I", 36 + size) + header[8:40] + struct.pack("<I", size)
        )
    return path


def message(path, **kwargs):
    with pytest.raises(UserError) as caught:
        audio.load(path, RATE, **kwargs)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    return text


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_every_format_gives_the_same_sound(tmp_path, suffix):
    wave = audio.load(write(tmp_path / f"tone.{suffix}", tone()), RATE)
    assert wave.dtype == np.float32 and wave.ndim == 1
    spectrum = np.abs(np.fft.rfft(wave[:RATE]))
    assert abs(spectrum.argmax() - 440) <= 1
    assert 0.45 < np.abs(wave).max() < 0.6


def test_int16_samples_are_divided_by_32768_and_channels_averaged(tmp_path):
    samples = np.stack([np.arange(-4000, 4000), np.arange(8000) * 3], axis=1).astype("i2")
    wave = audio.load(write(tmp_path / "two.wav", samples), RATE)
    expected = (samples.astype("f8") / 32768).mean(axis=1)
    np.testing.assert_allclose(wave, expected, atol=1e-7)


def test_eight_channels(tmp_path):
    samples = np.stack([tone(level=level / 10) for level in range(1, 9)], axis=1)
    wave = audio.load(write(tmp_path / "eight.wav", samples, subtype="FLOAT"), RATE)
    np.testing.assert_allclose(wave, tone(level=0.45), atol=1e-6)


def test_resampling_keeps_pitch_and_length(tmp_path):
    wave = audio.load(write(tmp_path / "tone.wav", tone(2.0)), 44100, duration=1.5)
    assert len(wave) == 66150
    assert abs(np.abs(np.fft.rfft(wave)).argmax() / 1.5 - 440) < 1


def test_window(tmp_path):
    ramp = np.linspace(0.1, 0.9, 5 * RATE, dtype="f4")
    path = write(tmp_path / "ramp.wav", ramp, subtype="FLOAT")
    np.testing.assert_array_equal(
        audio.load(path, RATE, offset=2.0, duration=1.0), ramp[2 * RATE : 3 * RATE]
    )
    assert len(audio.load(path, RATE, offset=4.0)) == RATE  # the file ends first


def test_beyond_full_scale_is_scaled_not_clipped(tmp_path):
    wave = audio.load(write(tmp_path / "loud.wav", tone(level=4.0), subtype="FLOAT"), RATE)
    np.testing.assert_allclose(wave, tone(level=1.0), atol=1e-4)


def test_three_hours_read_only_the_window(tmp_path, monkeypatch):
    path = write_hours(tmp_path / "long.wav", tone(5, rate=8000), at=2.9)
    read, frames = soundfile.SoundFile.read, []
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda f, n=-1, **kw: frames.append(n) or read(f, n, **kw)
    )
    assert len(audio.load(path, 8000, offset=2.9 * 3600, duration=5)) == 40000
    assert frames == [40000]


def test_missing_and_folder(tmp_path):
    assert "no such sound file" in message(tmp_path / "none.wav")
    assert "is not a file" in message(tmp_path)


def test_empty_junk_and_header_only(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"")
    assert "empty" in message(path)
    path.write_bytes(b"These are words, not sounds. " * 50)
    assert "not a sound file" in message(path)
    write(path, np.zeros(0, "f4"))
    assert "no samples" in message(path)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_truncated(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", tone(8.0))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "truncated" in message(path)


def test_part_before_the_cut_can_be_used(tmp_path):
    path = write(tmp_path / "a.wav", tone(8.0))
    path.write_bytes(path.read_bytes()[: 6 * RATE])  # 3 s of 16-bit samples
    assert len(audio.load(path, RATE, duration=2.0)) == 2 * RATE


def test_streamed_wav_has_no_length_in_its_header(tmp_path):
    content = bytearray(write(tmp_path / "a.wav", tone()).read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(content)
    assert len(audio.load(tmp_path / "a.wav", RATE)) == RATE


def test_nothing_to_hear(tmp_path):
    path = tmp_path / "a.wav"
    assert "silent" in message(write(path, np.zeros(RATE, "f4")))
    assert "too short: 10 samples" in message(write(path, tone()[:10]))
    broken = tone()
    broken[7] = np.nan
    assert "not numbers" in message(write(path, broken, subtype="FLOAT"))
    broken[7] = np.inf
    assert "not numbers" in message(write(path, broken, subtype="FLOAT"))


def test_silence_is_judged_in_the_window(tmp_path):
    path = write(tmp_path / "a.wav", np.concatenate([np.zeros(RATE, "f4"), tone()]))
    assert "prompt.offset" in message(path, duration=1.0)
    assert len(audio.load(path, RATE, offset=1.0)) == RATE


@pytest.mark.parametrize(
    "window",
    [{"offset": 1.5}, {"offset": -1}, {"offset": "a"}, {"duration": 0}, {"duration": "nan"}],
)
def test_windows_that_make_no_sense(tmp_path, window):
    path = write(tmp_path / "a.wav", tone())
    with pytest.raises(UserError, match=next(iter(window))):
        audio.load(path, RATE, **window)


def test_check_says_what_load_says(tmp_path):
    path = write(tmp_path / "a.wav", np.zeros(RATE, "f4"))
    with pytest.raises(UserError, match="silent"):
        audio.check(path)


def test_find(tmp_path):
    (tmp_path / "deep").mkdir()
    names = ["b.wav", "a.ogg", "deep/c.FLAC", "notes.txt"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    b, a, c, txt = (str(tmp_path / name) for name in names)
    assert audio.find(b) == [b]
    assert audio.find(txt) == [txt]  # what is named is taken at its word
    assert audio.find(str(tmp_path)) == [a, b, c]
    assert audio.find(f"{tmp_path}/*") == [a, b]
    assert audio.find(f"{tmp_path}/**/*.FLAC") == [c]
    assert audio.find([c, str(tmp_path)]) == [c, a, b]


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    path = tmp_path / "take[1].wav"
    path.write_bytes(b"x")
    assert audio.find(str(path)) == [str(path)]


@pytest.mark.parametrize("path", ["", None, [], "no/such.wav", "no/such/*.wav", "demo:nothing"])
def test_nothing_found(path):
    with pytest.raises(UserError):
        audio.find(path)


def test_folder_without_sounds(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="no sound files"):
        audio.find(str(tmp_path))


def test_demo_sounds_can_be_heard():
    demos = [file for file in audio.DEMO.glob("*") if file.suffix in audio.SUFFIXES]
    assert len(demos) >= 3
    for file in demos:
        assert audio.find(f"demo:{file.stem}") == [f"demo:{file.stem}"]
        assert len(audio.load(f"demo:{file.stem}", 32000)) > 0.3 * 32000


@pytest.mark.process
def test_neither_torch_nor_librosa_is_needed(tmp_path):
    path = write(tmp_path / "a.wav", tone())
    code = f"import sys; from acgd.media import audio; audio.load({str(path)!r}, 44100)"
    code += "; assert not {'torch', 'librosa'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
