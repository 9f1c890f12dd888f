"""The Python face, as somebody types it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import acgd

OWN_SAMPLER = '''
from acgd.diffusion.interfaces import Step
from acgd.diffusion.samplers.guided import guided, steered, timesteps


class Halfway:
    """DDIM's deterministic step, half of it."""

    def __init__(self, steps="3"):
        self.steps = steps

    def __call__(self, denoiser, x, *, noise, guide=None, start=0, history=()):
        for index, total, t in timesteps(denoiser.diffusion, x, start):
            step = guided(denoiser, x, t, guide)
            x = x + 0.5 * (steered(denoiser.diffusion, x, t, step)[0] - x)
            yield Step(index, total, t, x, step.pred.x0, step.losses)
'''


@pytest.fixture
def here(tmp_path, monkeypatch, sounds):
    monkeypatch.chdir(tmp_path)
    return [*("logger=none",)]


@pytest.mark.process
def test_import_is_quick_and_loads_neither_torch_nor_hydra():
    code = (
        "import sys, time; t = time.process_time(); import acgd; t = time.process_time() - t; "
        "print(t, [m for m in ('torch', 'hydra', 'numpy', 'omegaconf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    seconds, loaded = done.stdout.split(maxsplit=1)
    assert loaded.strip() == "[]" and float(seconds) < 0.2, done.stderr


def test_pictures_of_a_file_and_two_seeds(here, tiny, sounds):
    pictures = acgd.draw(sounds / "tone.wav", *tiny, *here, seed=[0, 1], guidance={"clip": 500})
    assert [picture.seed for picture in pictures] == [0, 1]
    first = pictures[0]
    assert isinstance(first.image, Image.Image) and first.image.size == (256, 256)
    assert first.folder.parent == Path("outputs/python") and first.label == "tone"
    assert first.heard[0][1] > 0 and first.scores["picture"]["judge"]["similarity"] is not None
    assert first._repr_png_().startswith(b"\x89PNG")
    assert pictures._repr_html_().count("<img") == 2
    again = acgd.draw(sounds / "tone.wav", *tiny, *here, seed=[0, 1], guidance={"clip": 500})
    assert again[0].folder == first.folder  # read, not made again


def test_a_sound_is_heard_and_nothing_is_drawn(here, tiny, sounds):
    (sound,) = acgd.hear(sounds / "tone.wav", *tiny, *here)
    assert sound.label == "tone" and sound.heard[0][1] >= sound.heard[1][1] > 0
    assert sound.image.size == (320, 96) and sound.wave.ndim == 1
    assert "<audio" in acgd.hear([sounds / "tone.wav"], *tiny, *here)._repr_html_()
    assert not Path("outputs").exists()
    with pytest.raises(acgd.UserError, match=r"gone\.wav"):
        acgd.hear("gone.wav", *tiny, *here)


def test_samples_are_the_same_as_their_file(here, tiny, sounds):
    import soundfile

    wave, rate = soundfile.read(sounds / "tone.wav", dtype="float32")
    (of_array,) = acgd.draw(wave, *tiny, *here, sample_rate=rate)
    (of_file,) = acgd.draw(str(sounds / "tone.wav"), *tiny, *here)
    assert np.array_equal(np.asarray(of_array.image), np.asarray(of_file.image))
    with pytest.raises(acgd.UserError, match="sample_rate"):
        acgd.draw(wave, *tiny, *here)
    with pytest.raises(acgd.UserError, match="finite"):
        acgd.draw(np.array([0.0, np.nan]), *tiny, *here, sample_rate=8000)


@pytest.mark.process
@pytest.mark.slow
def test_the_command_makes_the_same_picture(here, tiny, sounds):
    (picture,) = acgd.draw(sounds / "tone.wav", *tiny, *here, text="it's rain, and 'snow'", seed=3)
    shown = picture._repr_png_()
    words = [sys.executable, "-m", *__import__("shlex").split(picture.command), "force=true"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    del picture.__dict__["image"]
    assert picture._repr_png_() == shown


def environment():
    import os

    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_steps_of_a_sampler_of_ones_own(here, tiny, sounds, monkeypatch):
    Path("halfway.py").write_text(OWN_SAMPLER)
    monkeypatch.syspath_prepend(".")
    from halfway import Halfway

    frames = list(acgd.steps(sounds / "tone.wav", *tiny, sampler=Halfway("3"), seed=[0, 1]))
    assert [frame.index for frame in frames] == [0, 1, 2] and frames[0].total == 3
    assert [image.size for image in frames[-1].images] == [(32, 32)] * 2
    assert not np.array_equal(frames[0].samples[0], frames[-1].samples[0])
    assert "clip" in frames[1].losses and not Path("outputs").exists()


def test_the_steps_end_in_the_picture_that_is_drawn(here, tiny, sounds):
    *_, last = acgd.steps(sounds / "tone.wav", *tiny, sampler="ddim")
    (picture,) = acgd.draw(sounds / "tone.wav", *tiny, *here, sampler="ddim")
    native = Image.open(picture.folder / "images" / "seed0-native.png")
    assert np.array_equal(np.asarray(last.samples[0]), np.asarray(native))


@pytest.mark.parametrize(
    "given, says",
    [
        ({"sound": "nowhere.wav"}, "nowhere.wav"),
        ({"sampler": "dim"}, "sampler"),
        ({"seed": -1}, "seed=-1"),
        ({"guidance": {"clop": 1}}, "did you mean"),
        ({"config_dir": "nowhere"}, "there is no such folder"),
    ],
)
def test_what_is_wrong_is_a_user_error(here, given, says):
    with pytest.raises(acgd.UserError, match=says):
        acgd.draw(given.pop("sound", None), *here, **given)
