"""A film of a sound: what is heard when, the pictures on the way, and that it resumes."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import compose
from PIL import Image

from acgd.errors import UserError
from acgd.media import audio
from acgd.pipeline import runner
from acgd.pipeline.film import frames, hearing
from acgd.pipeline.film.frames import Look
from acgd.pipeline.film.hearing import Stretch
from acgd.runs.run import expand

av = pytest.importorskip("av", reason="pip install 'acgd[media]'")
RAIN, DOG = "rain", "dog"


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Path:
    """Six seconds of a dog, then six of a guitar."""
    path = tmp_path_factory.mktemp("walk") / "walk.wav"
    parts = [np.resize(audio.load(f"demo:{name}", 22050), 6 * 22050) for name in ("dog", "guitar")]
    soundfile.write(path, np.concatenate(parts), 22050)
    return path


@pytest.fixture
def film(tiny, walk, tmp_path):
    """Runs of a film by a small random network under the embedded ears."""
    own = [one for one in tiny if not one.startswith(("encoder.", "judge."))]

    def film(*more, sound=(f"prompt.path={walk}",)):
        given = [*own, "experiment=film", "logger=none", *sound, "film.fps=4"]
        given += ["guidance.cfg_scale=0", "guidance.clip=20000", "sampler.steps=3", "batch_size=3"]
        return expand(compose(*given, f"outputs={tmp_path}", *more))

    return film


def rows(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_one_bark_in_the_rain_stays_rain_and_many_are_a_dog():
    odds = np.tile([0.8, 0.2], (12, 1))
    odds[3] = [0.1, 0.9]
    audible = np.ones(12, bool)
    assert hearing.taken_over(odds, audible, hold=2) == [0] * 12
    odds[6:] = [0.1, 0.9]
    assert hearing.taken_over(odds, audible, hold=2) == [0] * 6 + [1] * 6
    assert hearing.taken_over(odds, audible & (np.arange(12) < 6), hold=2) == [0] * 12  # silence
    odds[6:] = [0.46, 0.54]  # not clearly
    assert hearing.taken_over(odds, audible, hold=2) == [0] * 12


def test_a_picture_rests_while_the_sound_stays_and_changes_slowly():
    found = [Stretch(0, 4, RAIN, 0.9), Stretch(4, 8, DOG, 0.9)]
    looks = frames.plan(found, np.ones(16), 0.5, fps=10, morph=1.0, pulse=0)
    assert len(looks) == 80
    assert set(looks[:35]) == {Look(RAIN, RAIN)} and set(looks[45:]) == {Look(DOG, DOG)}
    ways = [look.way for look in looks[35:45]]
    assert all(look.to == DOG for look in looks[36:44]) and ways[1:-1] == sorted(ways[1:-1])
    cut = frames.plan(found, np.ones(16), 0.5, 10, 0.0, 0)
    assert set(cut) == {Look(RAIN, RAIN), Look(DOG, DOG)}
    loud = np.linspace(0, 1, 16)
    levels = [look.level for look in frames.plan(found, loud, 0.5, 10, 0.0, pulse=0.5)]
    assert levels[0] == 0 and levels[-1] == frames.LEVELS - 1 and levels == sorted(levels)


def test_half_an_hour_is_read_minute_by_minute(tmp_path, monkeypatch):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(np.sin(np.arange(8000) / 9), 200), 8000)
    lengths = [len(piece) for piece in audio.pieces(path, 8000)]
    assert lengths == [480_000, 480_000, 480_000, 160_000]


class Counting:
    """Ears that count what they are given at once."""

    sample_rate = 8000

    def __init__(self):
        self.most = self.all = 0

    def audio(self, waves):
        self.most, self.all = max(self.most, len(waves)), self.all + len(waves)
        return torch.nn.functional.normalize(waves[:, :4] + 1, dim=1)


@pytest.mark.parametrize(
    ("width", "hop", "count"), [(2.0, 0.7, 171), (2.0, 0.5, 237), (1.0, 2.9, 42)]
)
def test_windows_and_loudness_keep_their_time_from_minute_to_minute(tmp_path, width, hop, count):
    wave = 0.01 * np.sin(np.arange(120 * 8000) / 9)
    wave[110 * 8000 : 113 * 8000] *= 50
    soundfile.write(tmp_path / "two.wav", wave, 8000)
    ears = Counting()
    windows = hearing.listen(tmp_path / "two.wav", ears, width, hop)
    assert ears.most <= hearing.AT_ONCE and abs(ears.all - count) <= 1
    assert len(windows.loudness) == len(windows.embeds) == ears.all and windows.seconds == 120
    assert 110 - hop < int(windows.loudness.argmax()) * hop < 113


def test_a_change_is_where_the_sound_changes():
    """Rain until the fourth second, then a dog, in windows of two seconds."""
    share = torch.tensor([min(max((i * 0.5 + 2 - 4) / 2, 0), 1) for i in range(16)])
    embeds = torch.stack([1 - share, share], 1)
    viewer = SimpleNamespace(
        model=SimpleNamespace(scale_at=20), embeds=torch.eye(2), labels=[RAIN, DOG]
    )
    windows = hearing.Windows(embeds, np.ones(16), np.ones(16, bool), 2.0, 0.5, 9.5)
    found, _ = hearing.stretches(windows, viewer, hold=1.0)
    assert [one.label for one in found] == [RAIN, DOG]
    assert found[0].end == found[1].start == pytest.approx(4, abs=0.3) and found[1].end == 9.5


def test_a_film_follows_its_sound(film, capsys):
    (run,) = film()
    runner.render([run])
    said = capsys.readouterr()
    assert re.search(r"^heard +dog 0 to \d.*guitar .* to 12 s$", said.out, re.M)
    assert f"film       {run.folder / 'film.mp4'}" in said.out
    assert re.search(r"^judge +sees what is heard in \d+ % of the film$", said.out, re.M)
    assert "heard whole, 12 s in parts of 10 s" in said.err
    heard = [row["heard"] for row in rows(run.folder / "timeline.csv")]
    assert heard[0] == "dog" and heard[-1] == "guitar"
    assert float(rows(run.folder / "timeline.csv")[-1]["start"]) == pytest.approx(6, abs=0.76)
    listed = rows(run.folder / "frames.csv")
    assert len(listed) == 48 and listed[0]["from"] == "dog" and listed[-1]["to"] == "guitar"
    assert len({row["picture"] for row in listed}) == len(list(run.folder.glob("frames/*.png")))
    with av.open(str(run.folder / "film.mp4")) as container:
        lengths = {s.type: float(s.duration * s.time_base) for s in container.streams}
        starts = {s.type: float(s.start_time * s.time_base) for s in container.streams}
    assert lengths["video"] == pytest.approx(12, abs=1e-6)
    assert lengths["audio"] == pytest.approx(12, abs=0.25)  # a frame
    assert abs(starts["video"] - starts["audio"]) < 0.25
    about = json.loads((run.folder / "metrics.json").read_text())["film"]
    assert about["frames"] == 48 and 0 < about["change_most"] < 1 and 0 <= about["follows"] <= 1
    assert Image.open(run.folder / "images" / "timeline.png").width >= 3 * 128
    assert (run.folder / "film.webp").stat().st_size < 2e6
    promised = json.loads((run.folder / "status.json").read_text())["files"]
    assert {"film.mp4", "frames/00000.png", "timeline.csv"} <= set(promised)
    before = (run.folder / "film.mp4").stat().st_mtime_ns
    runner.render([run])
    assert (run.folder / "film.mp4").stat().st_mtime_ns == before


def test_a_killed_film_goes_on_with_the_same_bytes(film, tmp_path, monkeypatch):
    (whole,), (parts,) = film(), film("name=parts")
    runner.render([whole])
    pictures, calls = frames.pictures, []

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return pictures(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(frames, "pictures", interrupted)
        runner.render([parts])
    kept = {path: path.stat().st_mtime_ns for path in parts.folder.glob("frames/*.png")}
    assert len(kept) == 3  # a batch
    runner.render([parts])
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    for path in sorted(whole.folder.glob("frames/*.png")):
        assert path.read_bytes() == (parts.folder / "frames" / path.name).read_bytes()


@pytest.mark.parametrize(
    "more",
    [
        ["film.mode=cut"],
        ["film.mode=init", "film.kept=0.5"],
        ["film.pulse=1", "film.pulse_on=clip", "film.mode=cut"],
    ],
)
def test_other_ways_to_film(film, more):
    (run,) = film(*more)
    runner.render([run])
    ways = {row["way"] for row in rows(run.folder / "frames.csv")}
    assert ways == {"0.0000"} and (run.folder / "film.mp4").stat().st_size > 1000


def test_the_pulse_drives_the_strength_that_was_chosen(film):
    (run,) = film("film.pulse=1", "film.pulse_on=clip", "guidance.clip=200")
    loud, quiet = (frames.pulsed(run.cfg, level, 1, "clip") for level in (frames.LEVELS - 1, 0))
    assert (loud["guidance"]["clip"], quiet["guidance"]["clip"]) == (400, 200)
    assert loud["guidance"]["cfg_scale"] == run.cfg["guidance"]["cfg_scale"]
    (other,) = film("film.pulse=1", "guidance.clip=200")
    assert other.signature != run.signature


def test_a_stretch_between_two_frames_is_in_the_timeline_alone(film):
    (run,) = film("film.fps=0.1", "film.mode=cut")
    runner.render([run])
    assert {row["heard"] for row in rows(run.folder / "timeline.csv")} >= {"dog", "guitar"}
    assert [row["from"] for row in rows(run.folder / "frames.csv")] == ["dog"]


def test_a_film_needs_a_sound(film):
    runs = film("prompt=text", sound=())
    with pytest.raises(UserError, match=r"needs prompt\.path"):
        runner.render(runs)


def test_pictures_keep_their_signature(tiny):
    plain, other = (expand(compose(*tiny, *more))[0] for more in ([], ["film.morph=3"]))
    assert plain.signature == other.signature
