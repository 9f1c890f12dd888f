"""`acgd repeat`: a run made again, and what is said where it differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, compose
from PIL import Image

from acgd.commands import repeat
from acgd.pipeline import runner
from acgd.runs.run import expand


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """The second of a batch of two, of a sound that is named from where the command was given."""
    folder = tmp_path_factory.mktemp("repeat")
    before = os.getcwd()
    os.chdir(folder)
    try:
        noise = np.random.default_rng(0).uniform(-0.3, 0.3, 12000)
        import soundfile

        soundfile.write("hiss.wav", noise, 16000)
        sound = [
            "prompt.path=hiss.wav",
            "seed=[0,1]",
            "logger=none",
            "outputs=made",
            "report=false",
        ]
        runs = expand(compose(*tiny, *sound, "sampler=dpmpp"))
        runner.render(runs)
    finally:
        os.chdir(before)
    return folder / runs[1].folder


def again(run, *arguments: str, cwd):
    command = [sys.executable, str(ROOT / "run.py"), "repeat", str(run), *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=200)


@pytest.mark.process
def test_a_run_made_again_from_elsewhere_is_the_same(run, tmp_path):
    done = again(run, "--out", str(tmp_path / "again"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{run.name}: the same, " in done.stdout
    (made,) = (tmp_path / "again").glob(f"*/{run.name}")
    record = json.loads((made / "environment.json").read_text())
    assert len(record["batch"]) == 2  # with its companion, as it was sampled
    losses = (made / "losses.csv").read_bytes()
    (made / "losses.csv").write_bytes(losses.replace(b"\n4,", b"\n4.5,"))
    picture = np.asarray(Image.open(made / "images/seed1-native.png")).copy()
    picture[0, :3] ^= 2
    Image.fromarray(picture).save(made / "images/seed1-native.png")
    (made / "previews/step_0002.png").unlink()
    said = {name: repeat.difference(name, run, made) for name in repeat.results(run, made)}
    said = {name: line for name, line in said.items() if line}
    assert said == {
        "images/seed1-native.png": "images/seed1-native.png: 3 of 1024 pixels differ,"
        " by at most 2 of 255",
        "losses.csv": "losses.csv: numbers differ by at most 0.5",
        "previews/step_0002.png": "previews/step_0002.png: not there as made again",
    }


def test_what_was_not_as_it_is_now_is_named(run):
    then = repeat.read(run)
    now = then | {"threads": 99, "packages": then["packages"] | {"torch": "9.9"}, "command": []}
    assert repeat.differences(then, now) == [
        f"packages.torch: {then['packages']['torch']}, now 9.9",
        f"threads: {then['threads']}, now 99",
    ]


@pytest.mark.process
def test_a_sound_that_has_moved_is_one_line(run):
    sound = run.parents[2] / "hiss.wav"
    sound.rename(sound.with_name("moved.wav"))
    try:
        done = again(run, cwd=run)
    finally:
        sound.with_name("moved.wav").rename(sound)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "acgd: hiss.wav: no such sound file, folder or glob; see prompt.path"
    ]
