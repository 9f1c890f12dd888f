"""What people will give it by mistake, in real processes.

Each ends in a line that names the thing, without a traceback and with an exit code that says so;
what was finished stays.
"""

import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import soundfile
import yaml
from conftest import ROOT, command, compose
from PIL import Image
from test_audio import write_hours

from acgd.runs.run import expand

RATE = 16000
HANGS = 500  # seconds after which a process is taken to hang; a few are usual


@pytest.fixture
def quick(tiny):
    """The random models without a judge, in two steps."""
    kept = [one for one in tiny if not one.startswith(("judge", "sampler", "preview"))]
    return [*kept, "judge=none", "sampler.steps=2", "preview_every=0"]


@pytest.fixture
def start(tmp_path):
    """Starts `python run.py` with its outputs in a temporary folder."""

    def start(*arguments, folder=tmp_path):
        return subprocess.Popen(
            command(f"outputs={folder}/outputs", *arguments),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # tests that run in the background inherit deaf ears for Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


@pytest.fixture
def refused(start):
    """Runs the command and gives the lines of ours that say why it failed."""

    def refused(*arguments, **where):
        process = start(*arguments, **where)
        _, errors = process.communicate(timeout=HANGS)
        assert process.returncode == 1, errors
        assert "Traceback" not in errors
        return [line for line in errors.splitlines() if line.startswith("acgd: ")]

    return refused


def tone(seconds):
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)


@pytest.fixture
def bad_sounds(tmp_path):
    """A folder of sounds that hold nothing, with a word of what should be said about each."""
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "empty.wav").write_bytes(b"")
    (folder / "words.wav").write_text("These are words, not a sound. " * 99)
    soundfile.write(folder / "cut.wav", tone(4), RATE)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:RATE])
    soundfile.write(folder / "cut.flac", tone(4), RATE)
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:5000])
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    soundfile.write(folder / "short.wav", tone(1)[:10], RATE)
    said = {"empty.wav": "is empty", "words.wav": "not a sound file", "cut.wav": "truncated"}
    said |= {"cut.flac": "truncated", "silent.wav": "silent", "nan.wav": "NaN"}
    return folder, said | {"short.wav": "10 samples"}


@pytest.mark.process
@pytest.mark.slow
def test_bad_sounds_beside_good_ones(bad_sounds, refused, quick, tmp_path):
    """One process: each bad file has its line, three hours and eight channels their pictures."""
    folder, said = bad_sounds
    soundfile.write(folder / "eight.wav", np.stack([tone(1)] * 8, axis=1), RATE)
    write_hours(folder / "hours.wav", tone(1))
    lines = refused(*quick, f"prompt.path={folder}")
    for name, words in said.items():
        (line,) = [line for line in lines if f"bad/{name}" in line]
        assert words in line
    states = {
        json.loads(path.read_text())["status"]: path.parent.name
        for path in tmp_path.glob("outputs/main/*/status.json")
    }
    assert set(states) == {"ok", "failed"}
    for good in ("eight", "hours"):
        assert len(list(tmp_path.glob(f"outputs/main/{good}-*/images/*.png"))) >= 1


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prompt.path=no/such.wav"], ["no/such.wav"]),
        (["prompt=telepathy"], ["telepathy", "mixed"]),
        (["guidance.clipp=3"], ["guidance.clipp", "did you mean guidance.clip"]),
        (["prompt=text", "prompt.text="], ["prompt.text"]),
        (["prompt=text", "prompt.text=[a dog:1,a cat:-1]"], ["a dog", "sum to zero"]),
        (["prompt=mixed", "prompt.text_share=2"], ["text_share"]),
        (["seed=minus"], ["seed"]),
    ],
    ids=["no-file", "no-group", "no-key", "no-text", "sum-zero", "share", "seed"],
)
def test_mistakes_in_the_command(refused, arguments, words):
    lines = refused(*arguments)
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


@pytest.mark.process
def test_weights(refused, quick, weights, tmp_path):
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("absent", "truncated", "another")}
    paths["truncated"].write_bytes((weights / "unet.safetensors").read_bytes()[:50000])
    shutil.copy(weights / "judge.safetensors", paths["another"])
    given = f"model.checkpoint={','.join(map(str, paths.values()))}"
    lines = refused(*quick, "prompt=text", given, "-m")
    for path in paths.values():
        assert sum(str(path) in line and "failed: " not in line for line in lines) == 1
    assert lines[-1].startswith("acgd: sweep: 0 of 3 jobs ok")


@pytest.mark.process
def test_odd_texts_have_their_picture(start, quick, tmp_path):
    """Five hundred words, cut with one line that says so, and emoji."""
    process = start(*quick, "prompt=text", f"prompt.text=['{'dog ' * 500}','🐶🌧️']")
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 0, errors
    assert errors.count("tokens, the first") == 1
    assert len(list(tmp_path.glob("outputs/main/*/images/*.png"))) >= 1


@pytest.mark.process
@pytest.mark.parametrize("text", ["🐶", "café au lait", "what's up? (dog)"])
def test_words_that_hydras_grammar_has_no_letters_for(start, text):
    process = start("prompt=text", f"prompt.text={text}", "--cfg", "job", "-p", "prompt")
    out, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 0 and not errors
    assert yaml.safe_load(out)["text"] == text


@pytest.mark.process
def test_outputs_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("in the way")
    lines = refused(folder=tmp_path / "file")
    assert len(lines) == 1 and str(tmp_path / "file") in lines[0]


@pytest.mark.process
def test_ctrl_c_keeps_what_was_finished(start, quick, tmp_path):
    seeds = ",".join(map(str, range(200)))
    process = start(*quick, f"seed=[{seeds}]", "batch_size=1", "prompt=text", "prompt.text=a dog")
    finished = lambda: list(tmp_path.glob("outputs/main/*seed0-*/images/*.png"))  # noqa: E731
    deadline = time.monotonic() + HANGS
    while not finished() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 130 and "Traceback" not in errors
    assert "acgd: interrupted" in errors
    assert finished()


def test_names_that_are_no_text_are_shown_escaped_and_drawn(start, quick, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    tone = np.sin(np.arange(RATE) / 20).astype(np.float32)
    names = [b"~.wav", b"caf\xe9.wav", b"two\nlines.wav", b"red\x1b[31m.wav", b"${oc.env:HOME}.wav"]
    for i, name in enumerate(names):  # not of one content
        soundfile.write(tmp_path / "a.wav", tone * (1 - i / 10), RATE)
        shutil.move(tmp_path / "a.wav", os.fsencode(folder) + b"/" + name)
    process = start(*quick, f"prompt.path={folder}")
    said = "".join(process.communicate(timeout=HANGS))
    assert process.returncode == 0, said
    assert "\x1b" not in said and "Traceback" not in said
    assert r"two\nlines" in said and r"red\x1b[31m" in said and "${oc.env:HOME}" in said
    states = list((tmp_path / "outputs" / "main").glob("*/status.json"))
    assert [json.loads(path.read_text())["status"] for path in states] == ["ok"] * 4
    assert r"left out caf\udce9.wav (its name is not UTF-8; rename it)" in said


def test_a_link_to_a_device_is_refused_and_does_not_hang(refused, quick, tmp_path):
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    (line,) = refused(*quick, f"prompt.path={tmp_path / 'zero.wav'}")
    assert "zero.wav" in line and "a pipe or a device" in line


def test_damaged_files_are_one_line_without_their_libraries_noise(start, quick, tmp_path):
    rng = np.random.default_rng(0)
    mp3, tif = tmp_path / "torn.mp3", tmp_path / "torn.tif"
    mp3.write_bytes(b"ID3\x04\0\0\0\0\0\0" + b"\xff\xfb\x90\0" + rng.bytes(3000))
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tif)
    tif.write_bytes(tif.read_bytes()[:-900])
    for given, name in (
        ([f"prompt.path={mp3}"], "torn.mp3"),
        (["prompt=image", f"prompt.image={tif}"], "torn.tif"),
    ):
        process = start(*quick, *given)
        _, errors = process.communicate(timeout=HANGS)
        lines = [line for line in errors.splitlines() if line.strip() and "it/s" not in line]
        assert process.returncode == 1 and len(lines) == 1 and name in lines[0], errors


def test_a_key_that_is_none_is_refused_with_and_without_plus(refused, quick):
    (line,) = refused(*quick, "+sede=3")
    assert "sede=3: there is no such key; did you mean seed?" in line


def test_a_share_of_no_words_is_said_to_change_nothing(tiny, capsys):
    expand(compose(*tiny, "describer=none", "describer.share=0.3"))
    said = capsys.readouterr().err
    assert said == "acgd: describer.share=0.3: changes nothing with describer=none\n"
