"""Names and links as file systems allow them, and files about which libraries talk past us."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
from conftest import command, compose
from PIL import Image
from test_audio import RATE, message, tone, write
from test_cli import run

from acgd import errors
from acgd.errors import UserError
from acgd.media import audio, find, images, texts
from acgd.pipeline import snapshot
from acgd.report import page_data, thumbnails
from acgd.runs import folder as folders
from acgd.runs import records
from acgd.runs.run import expand

QUICK = ["prompt.path=.", "judge=none", "sampler.steps=2", "enlarge_to=0", "logger=none"]


@pytest.fixture(autouse=True)
def everything_is_said():
    errors.say_once.cache_clear()


@pytest.fixture
def plain(tiny):
    """The random models without a judge."""
    return [one for one in tiny if not one.startswith(("judge", "sampler", "preview"))]


def quietly_broken_mp3(path):
    """Three seconds of a tone with junk frames after its first two thirds."""
    file = io.BytesIO()
    soundfile.write(file, tone(3), RATE, format="MP3")
    content = file.getvalue()
    at = len(content) * 2 // 3
    path.write_bytes(content[:at] + b"\xff\xfbxx" * 200 + content[at:])
    return path


def picture_with_cut_exif(path):
    """A red picture whose EXIF points behind its end."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010F] = 1, "maker" * 20
    Image.new("RGB", (32, 32), "red").save(file, "JPEG", exif=exif)
    content = bytearray(file.getvalue())
    at = content.index(b"Exif") + 20
    content[at : at + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    return path


def test_libmpg123_does_not_talk_past_us(tmp_path, capfd):
    path = quietly_broken_mp3(tmp_path / "a.mp3")
    with soundfile.SoundFile(path) as sound:
        sound.read()
    assert "mpg123" in capfd.readouterr().err  # without us it does
    wave = audio.load(path, RATE)
    assert not capfd.readouterr().err
    assert abs(len(wave) / RATE - 3) < 0.1
    assert abs(np.abs(np.fft.rfft(wave[:RATE])).argmax() - 440) <= 1


@pytest.mark.process
def test_pillow_does_not_talk_past_us(tmp_path, plain):
    path = picture_with_cut_exif(tmp_path / "a.jpg")
    with pytest.warns(UserWarning, match="Truncated"):
        assert images.load(path).getpixel((9, 9))[0] > 250
    words = ["prompt=image", "prompt.image=a.jpg", *QUICK[1:], *plain]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and "Truncated" not in done.stderr
    assert len(list(tmp_path.glob("outputs/main/*/images/*.png"))) == 1


@pytest.mark.process
@pytest.mark.filterwarnings("error")
def test_fractions_of_one_huge_value_are_black_without_a_word_of_numpy_s(tmp_path):
    Image.fromarray(np.full((8, 8), 3e38, np.float32)).save(tmp_path / "one.tiff")
    assert np.asarray(images.load(tmp_path / "one.tiff", "init_image")).max() == 0


def test_in_a_folder_whose_name_is_not_utf8(tmp_path, plain):
    """What can be read is drawn, what has such a name is named, and it is found whole later."""
    here = os.fsencode(tmp_path) + b"/h\xffer"
    os.mkdir(here)
    write(tmp_path / "good.wav", tone())
    for name in (b"good.wav", b"b\xffd.wav", b"~.wav"):
        shutil.copy(tmp_path / "good.wav", here + b"/" + name)
    for words, says in (
        ([*QUICK, *plain], rb"b\udcffd.wav (its name is not UTF-8; rename it)"),
        (["verify", "outputs"], b"1 runs: 1 whole"),
    ):
        done = subprocess.run(command(*words), cwd=here, capture_output=True, timeout=300)
        assert done.returncode == 0 and says in done.stdout + done.stderr, done.stderr
        assert b"\xff" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["b\udcffd.wav"], r"b\udcffd.wav: its name is not UTF-8; rename it"),
        (["prompt.path=b\udcffd.wav"], r"b\udcffd.wav: its name is not UTF-8; rename it"),
        (["b\udcffd.png"], r"b\udcffd.png is a picture: "),
        (["prompt=image", "prompt.image=b\udcffd.png"], r"prompt.image='b\udcffd.png': holds"),
        (["prompt=text", "prompt.text=b\udcffd"], r"prompt.text='b\udcffd': holds letters that"),
        (["outputs=b\udcffd"], r"outputs='b\udcffd': holds letters that are no UTF-8"),
        (["name=b\udcffd"], r"name='b\udcffd': holds letters that are no UTF-8"),
        (["labels=b\udcffd.txt"], r"labels='b\udcffd.txt': holds letters that are no UTF-8"),
    ],
    ids=["bare", "sound", "bare-picture", "picture", "text", "outputs", "name", "labels"],
)
@pytest.mark.process
def test_a_name_that_is_not_utf8_is_one_line(tmp_path, words, says):
    write(tmp_path / "b.wav", tone())
    for end in (b".wav", b".png"):
        shutil.copy(tmp_path / "b.wav", os.fsencode(tmp_path) + b"/b\xffd" + end)
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(f"acgd: {says}")
    assert not (tmp_path / "outputs").exists()


def test_a_sound_called_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "~.wav", tone())
    assert find.find("~.wav") == ["~.wav"]
    np.testing.assert_array_equal(audio.load("~.wav", RATE), audio.load(tmp_path / "~.wav", RATE))
    (one,) = expand(compose("prompt.path='~.wav'"))
    (other,) = expand(compose(f"prompt.path={write(tmp_path / 'plain.wav', tone())}"))
    assert one.signature == other.signature  # it counts by its content, as every file


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/stdin"])
def test_links_to_devices_are_never_read(tmp_path, device):
    for name in ("a.wav", "a.png", "a.txt", "status.json", "metrics.json", "config.yaml"):
        os.symlink(device, tmp_path / name)
    assert "a pipe or a device" in message(tmp_path / "a.wav")
    for read in (lambda: images.load(tmp_path / "a.png"),
                 lambda: texts.text(tmp_path / "a.txt", "labels")):  # fmt: skip
        with pytest.raises(UserError, match="a pipe or a device"):
            read()
    for name in ("losses.csv", "captions.csv", "snapshot.pt", "previews.png"):
        os.symlink(device, tmp_path / name)
    assert page_data.losses(tmp_path) == {} and records.rows(tmp_path / "captions.csv") == []
    assert not thumbnails.thumb(tmp_path / "previews.png", tmp_path / "small.jpg")
    with pytest.raises(ValueError, match="not a whole snapshot"):
        snapshot.load(tmp_path / "snapshot.pt", [])
    assert folders.state(tmp_path) == {} and folders.status(tmp_path) == "absent"
    assert records.parse(tmp_path / "metrics.json") == {}
    assert records.settings(tmp_path) == {}


def test_runs_and_pages_hold_no_sounds_of_ones_own(tmp_path):
    """A folder of sounds in which a command was given holds its page's copies of them too."""
    name = tmp_path / "outputs/main"
    for sounds in (
        name / "dog-seed0-aaaaaaaaaaaa/report",
        name / "report/sounds",
        tmp_path / "report",
    ):
        sounds.mkdir(parents=True)
        write(sounds / "sound.wav", tone())
    (name / "report.html").write_text("a page")
    for file in ("config.yaml", "status.json"):
        (name / "dog-seed0-aaaaaaaaaaaa" / file).write_text(json.dumps({}))
    write(tmp_path / "mine.wav", tone())
    names = [os.path.relpath(path, tmp_path) for path in find.find(str(tmp_path))]
    assert names == ["mine.wav", "report/sound.wav"]
    assert find.find(f"{tmp_path}/**/sound.wav") == [str(tmp_path / "report/sound.wav")]
    assert len(find.find(str(name / "report"))) == 1  # asked for by its name
