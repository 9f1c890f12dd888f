"""Sound files as they come: sizes that lie, joined and cut files, films, downloads that failed."""

import io
import os
import struct
import subprocess
import zipfile

import numpy as np
import pytest
import soundfile
from test_audio import RATE, message, tone, write

from acgd import errors
from acgd.errors import UserError
from acgd.media import audio, containers, decode, find, flac, mpeg
from acgd.runs.run import describe

CHUNKED = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAV", "MS_ADPCM"),
    ("WAV", "IMA_ADPCM"),
    ("WAV", "GSM610"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
]


@pytest.fixture(autouse=True)
def everything_is_said():
    errors.say_once.cache_clear()


def encoded(samples, kind, subtype=None, rate=RATE, **kwargs):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype, **kwargs)
    return file.getvalue()


def noise(seconds, seed=0):
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(seconds * RATE))).astype("f4")


def without_mark(mp3):
    """An MP3 as old encoders wrote it: no Xing mark in front."""
    length, kind = mpeg.frame(mp3, 0)
    assert mpeg.xing(mp3, 0, kind)
    return mp3[length:]


def place(path, content):
    path.write_bytes(content)
    return path


def lag(a, b):
    """By how many samples b lies behind a, where the two are of one sound."""
    spectrum = np.fft.rfft(a, 2 * len(a)).conj() * np.fft.rfft(b, 2 * len(a))
    found = int(np.fft.irfft(spectrum).argmax())
    return found - 2 * len(a) if found > len(a) else found


@pytest.mark.parametrize(("kind", "subtype"), CHUNKED)
def test_half_a_file_is_truncated(tmp_path, kind, subtype):
    content = encoded(tone(4), kind, subtype)
    path = place(tmp_path / "a", content[: len(content) // 2])
    text = message(path)
    promised = float(text.split("promises ")[1].split(" s")[0])
    assert "truncated" in text and abs(promised - 4) < 0.1
    assert len(audio.load(path, RATE, duration=1.5)) == 1.5 * RATE  # what is there


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize(("kind", "subtype"), CHUNKED)
def test_sizes_that_were_never_written(tmp_path, kind, subtype, size):
    content = bytearray(encoded(tone(4), kind, subtype))
    data = containers.find_data(io.BytesIO(content))
    long = struct.calcsize(data.packed)
    content[data.field : data.field + long] = size.to_bytes(long, "big", signed=True)
    wave = audio.load(place(tmp_path / "a", content), RATE)
    assert abs(len(wave) / RATE - 4) < 0.05
    assert abs(np.abs(np.fft.rfft(wave[:RATE])).argmax() - 440) <= 1


@pytest.mark.parametrize(("kind", "place"), [("CAF", 12), ("W64", 56), ("RF64", 16), ("WAV", 16)])
@pytest.mark.parametrize("size", [b"\xff", b"\x7f"])
def test_chunks_that_reach_further_than_any_file(tmp_path, kind, place, size):
    """A chunk before the samples says that it is huge: a line, or the sound, never an exception."""
    content = bytearray(encoded(tone(2), kind, "PCM_16"))
    long = 8 if kind in ("CAF", "W64") else 4
    content[place : place + long] = size * long
    path = tmp_path / "a"
    path.write_bytes(content)
    message(path)


def test_an_archive_of_sizes_that_was_cut(tmp_path):
    content = encoded(tone(2), "RF64", "PCM_16")
    at = content.index(b"ds64")
    assert "not a sound" in message(place(tmp_path / "a.wav", content[: at + 12]))


def test_mp3_without_a_mark_is_read_to_its_end(tmp_path):
    silence = np.zeros(3 * RATE, "f4")
    mp3 = encoded(np.concatenate([silence, noise(4)]), "MP3", bitrate_mode="VARIABLE")
    whole = audio.load(place(tmp_path / "whole.mp3", mp3), RATE)
    bare = audio.load(place(tmp_path / "bare.mp3", without_mark(mp3)), RATE)
    assert len(whole) == 7 * RATE and abs(len(bare) - len(whole)) < 0.1 * RATE
    part = audio.load(tmp_path / "bare.mp3", RATE, offset=5, duration=1)
    assert np.abs(part - bare[5 * RATE : 6 * RATE]).max() < 1e-6


@pytest.mark.parametrize("kind", ["MP3", "OGG"])
def test_joined_files_are_heard_whole(tmp_path, capsys, kind):
    first, second = encoded(noise(3), kind), encoded(tone(4), kind)
    path = place(tmp_path / "a", first + second)
    wave = audio.load(path, RATE)
    assert len(wave) == 7 * RATE
    expected = audio.load(place(tmp_path / "b", second), RATE)
    np.testing.assert_allclose(wave[3 * RATE :], expected, atol=1e-6)
    part = audio.load(path, RATE, offset=2.5, duration=1)
    np.testing.assert_allclose(part, wave[round(2.5 * RATE) : round(3.5 * RATE)], atol=1e-6)
    audio.check(path)
    assert "2 sounds joined in one file" in capsys.readouterr().err


def test_joined_without_marks(tmp_path):
    path = place(tmp_path / "a.mp3", without_mark(encoded(noise(3), "MP3")) * 2)
    assert abs(len(audio.load(path, RATE)) / RATE - 6) < 0.15


def test_piped_flac_has_no_length(tmp_path):
    for seconds in (0.2, 4.0, 7.123):
        content = bytearray(encoded(noise(seconds), "FLAC"))
        content[flac.TOTAL] &= 0xF0
        content[flac.TOTAL + 1 : flac.TOTAL + 5] = bytes(4)
        wave = audio.load(place(tmp_path / "a.flac", content), RATE)
        np.testing.assert_allclose(wave, noise(seconds), atol=1e-4)


def paged(packets, ends):
    """Ogg pages, one a packet; the reader that they are for asks for no checksum."""
    for i, packet in enumerate(packets):
        table = b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255])
        flags = 2 * (i == 0) + 4 * (ends and i == len(packets) - 1)
        head = struct.pack("<4sBBQIIIB", b"OggS", 0, flags, 0, 1, i, 0, len(table))
        yield head + table + packet


def test_flac_in_ogg(tmp_path):
    content = encoded(noise(4), "FLAC")
    first, rest = content[:42], content[42:]  # the mark with STREAMINFO, what follows
    packets = [b"\x7fFLAC\1\0\0\1" + first]
    packets += [rest[i : i + 5000] for i in range(0, len(rest), 5000)]
    path = place(tmp_path / "a.oga", b"".join(paged(packets, ends=True)))
    np.testing.assert_allclose(audio.load(path, RATE), noise(4), atol=1e-4)


def test_ogg_without_its_end(tmp_path, capsys):
    content = encoded(noise(8), "OGG")
    audio.check(place(tmp_path / "a.ogg", content[: len(content) * 3 // 4]))
    assert "no end mark" in capsys.readouterr().err


def film(path, codec, seconds=8.0, rate=44100, samples=None):
    av = pytest.importorskip("av")
    rng = np.random.default_rng(3)
    if samples is None:
        samples = 0.1 * rng.standard_normal(round(seconds * rate))
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples.astype("f4")[None], "fltp", "mono")
        frame.rate, frame.pts, stream.bit_rate = rate, 0, 128000
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
        fifo = av.AudioFifo()
        for one in resampler.resample(frame):
            fifo.write(one)
        while (one := fifo.read(stream.frame_size or 1024, partial=True)) is not None:
            for packet in stream.encode(one):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    return samples


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.m4a", "aac", 44100),
        ("a.aac", "aac", 44100),
        ("a.mp4", "aac", 44100),
        ("a.wma", "wmav2", 44100),
        ("a.webm", "libopus", 48000),
    ],
)
def test_films_hit_the_right_sample(tmp_path, name, codec, rate):
    path = tmp_path / name
    samples = film(path, codec, rate=rate)
    wave = audio.load(path, rate)
    assert abs(len(wave) / rate - 8) < 0.1
    part = audio.load(path, rate, offset=5.3, duration=2)
    np.testing.assert_allclose(part, wave[round(5.3 * rate) :][: 2 * rate], atol=1e-6)
    original = samples[round(5.3 * rate) :][: 2 * rate]
    most = 0.02 + (0.03 if codec == "aac" else 0.05 if codec == "wmav2" else 0)  # priming kept
    assert abs(lag(original, part)) < most * rate


def test_a_cut_film_is_told(tmp_path):
    path = tmp_path / "a.mka"
    film(path, "aac")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "truncated" in message(path)
    path = tmp_path / "a.m4a"  # its index is at its end
    film(path, "aac")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "not a sound file that can be read" in message(path)


@pytest.mark.parametrize("codec", [8, 0x7F, 0x300])
def test_a_codec_that_nobody_knows_is_one_line(tmp_path, codec):
    block = struct.pack("<IBBHI", RATE, 8, 1, codec, 0) + bytes(range(256)) * 40
    head = b"Creative Voice File\x1a" + struct.pack("<HHH", 26, 0x10A, 0x1129)
    content = head + b"\x09" + len(block).to_bytes(3, "little") + block + b"\0"
    assert "not a sound file that can be read" in message(place(tmp_path / "a.voc", content))


def test_without_the_extra_it_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.m4a"
    film(path, "aac", seconds=1)
    monkeypatch.setattr(decode.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(decode.shutil, "which", lambda name: None)
    assert 'pip install "acgd[media]"' in message(path)
    write(tmp_path / "b.wav", tone())
    assert find.find(str(tmp_path)) == [str(tmp_path / "b.wav")]


def test_ffmpeg_where_it_is_installed(tmp_path, monkeypatch):
    if not decode.shutil.which("ffmpeg"):
        pytest.skip("there is no ffmpeg")
    path = tmp_path / "-a b.m4a"
    film(path, "aac")
    expected = audio.load(path, 44100, offset=3, duration=2)
    monkeypatch.setattr(decode.importlib.util, "find_spec", lambda name: None)
    assert abs(lag(expected, audio.load(path, 44100, offset=3, duration=2))) < 0.02 * 44100


@pytest.mark.parametrize("kind", ["MP3", "OGG", "FLAC"])
def test_offsets_in_compressed_files(tmp_path, kind):
    path = place(tmp_path / "a", encoded(noise(20), kind))
    part = audio.load(path, RATE, offset=13.37, duration=2)
    assert abs(lag(noise(20)[round(13.37 * RATE) :][: 2 * RATE], part)) < 0.02 * RATE


def test_stereo_that_cancels_is_heard(tmp_path, capsys):
    left = noise(2)
    path = write(tmp_path / "a.wav", np.stack([0.9 * left, -left], 1), subtype="FLOAT")
    np.testing.assert_allclose(audio.load(path, RATE), -left, atol=1e-6)
    audio.check(path)
    assert "channels cancel each other; channel 2 is heard" in capsys.readouterr().err
    path = write(tmp_path / "b.wav", np.stack([left, noise(2, seed=1)], 1), subtype="FLOAT")
    np.testing.assert_allclose(audio.load(path, RATE), (left + noise(2, seed=1)) / 2, atol=1e-6)
    one_of_eight = np.stack([left] + [0 * left] * 7, 1)
    path = write(tmp_path / "c.wav", one_of_eight, subtype="FLOAT")
    np.testing.assert_allclose(audio.load(path, RATE), left / 8, atol=1e-6)


def test_absurd_samples_are_named(tmp_path):
    samples = tone()
    samples[RATE // 2] = 1e30
    text = message(write(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert "1e+30 at 0.500 s" in text
    samples = tone(level=20000)  # integers in a float file
    wave = audio.load(write(tmp_path / "b.wav", samples, subtype="FLOAT"), RATE)
    np.testing.assert_allclose(wave, tone(level=1), atol=1e-4)


def test_what_part_is_heard_is_said(tmp_path, capsys):
    audio.check(write(tmp_path / "a.wav", tone(30)), offset=5)
    assert "heard 5 to 15 s of 30 s" in capsys.readouterr().err
    audio.check(write(tmp_path / "b.wav", tone(3)))
    assert not capsys.readouterr().err


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as inside:
        inside.writestr("a.wav", encoded(tone(), "WAV"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b"<html><body>Not found" + b"x" * 9000, "a web page"),
        (archive(), "a zip archive"),
        (b'{"error": "no such file"}', "a text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS pointer"),
        (bytes(5000), "nothing but zeros"),
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a PNG picture"),
    ],
)
def test_failed_downloads_are_called_what_they_are(tmp_path, content, says):
    assert says in message(place(tmp_path / "a.mp3", content))


@pytest.mark.parametrize("suffix", [".raw", ".wav", ".mp3", ".m4a", ".ogg", ".flac", ""])
@pytest.mark.parametrize(
    "start", [b"", b"RIFF", b"OggS", b"fLaC", b"ID3\4\0\0\0\0\0\0", b"\xff\xfb"]
)
def test_junk_has_its_line(tmp_path, suffix, start):
    junk = np.random.default_rng(1).integers(0, 256, 20000, dtype="u1").tobytes()
    message(place(tmp_path / f"a{suffix}", start + junk))


def test_pipes_and_devices_are_refused_unopened(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    assert "a pipe or a device" in message(tmp_path / "a.wav")
    for device in ("/dev/zero", "/dev/null"):
        assert "a pipe or a device" in message(device)
    write(tmp_path / "b.wav", tone())
    assert find.find(str(tmp_path)) == [str(tmp_path / "b.wav")]


def test_links_that_go_round(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a", "b", "c"):
        os.symlink(tmp_path, tmp_path / "deep" / name)
    os.symlink("loop.wav", tmp_path / "loop.wav")
    path = str(write(tmp_path / "deep" / "x.wav", tone()))
    assert find.find(str(tmp_path)) == [path]
    assert find.find(f"{tmp_path}/**/*.wav") == [path]
    assert "no such sound file" in message(tmp_path / "loop.wav")


def test_folders_say_what_they_leave_out(tmp_path, capsys):
    for name in ("a.wav", "c.caf", "d.aifc", "e.w64", "f.au"):
        kind = {".aifc": "AIFF"}.get(os.path.splitext(name)[1], name.split(".")[1].upper())
        place(tmp_path / name, encoded(tone(), kind))
    place(tmp_path / "g", encoded(tone(), "FLAC"))  # by what it holds
    for name in ("._a.wav", ".hidden.wav", "notes.txt", "cover.jpg"):
        place(tmp_path / name, b"x")
    (tmp_path / ".trash").mkdir()
    place(tmp_path / ".trash" / "z.wav", b"x")
    found = [os.path.basename(path) for path in find.find(str(tmp_path))]
    assert found == ["a.wav", "c.caf", "d.aifc", "e.w64", "f.au", "g"]
    said = capsys.readouterr().err
    assert "left out cover.jpg, notes.txt (no sound)" in said and "._a" not in said


def test_names_that_no_terminal_should_have(tmp_path, capsys):
    bad = os.fsencode(tmp_path) + b"/\xff.wav"
    with open(bad, "wb") as file:
        file.write(encoded(tone(), "WAV"))
    odd = write(tmp_path / "a\n\x1b[31m.wav", tone(30))
    assert find.find(str(tmp_path)) == [str(odd)]
    audio.check(odd)
    said = capsys.readouterr().err
    assert r"\udcff.wav (its name is not UTF-8; rename it)" in said
    assert r"a\n\x1b[31m.wav: heard 0 to 10 s" in said and "\x1b" not in said
    assert describe({"path": str(odd)}) == r"a\n\x1b[31m"
    with pytest.raises(UserError, match="not UTF-8"):
        find.find(os.fsdecode(bad))


def test_a_tilde_that_is_nobodys_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "~tilde.wav", tone())
    assert find.find("~tilde.wav") == ["~tilde.wav"]
    assert len(audio.load("~tilde.wav", RATE)) == RATE


def test_globs_through_folders(tmp_path):
    for name in ("a/x.wav", "a/b/y.wav", "c/y.wav", "c/.z.wav", "x.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = lambda glob: [os.path.relpath(p, tmp_path) for p in find.find(f"{tmp_path}/{glob}")]  # noqa: E731
    assert names("**/*.wav") == ["a/b/y.wav", "a/x.wav", "c/y.wav", "x.wav"]
    assert names("**/y.wav") == ["a/b/y.wav", "c/y.wav"]
    assert names("a/**/[xy].wav") == ["a/b/y.wav", "a/x.wav"]
    assert names("?/**") == ["a/b/y.wav", "a/x.wav", "c/y.wav"]
    assert names("**/b/*") == ["a/b/y.wav"]


@pytest.mark.process
def test_av_is_imported_late():
    code = "import sys; from acgd.media import audio; assert 'av' not in sys.modules"
    subprocess.run([os.sys.executable, "-c", code], check=True)
