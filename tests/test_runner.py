"""Whole runs on small real models with random weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import compose
from PIL import Image

from acgd import atomic_files
from acgd.encoders import zero_shot
from acgd.errors import UserError
from acgd.pipeline import drawing, runner, scoring
from acgd.runs import folder as folders
from acgd.runs.run import Run, expand
from acgd.types import Target


@pytest.fixture
def render(tiny, sounds, tmp_path):
    """render(*overrides) -> the runs; in tmp_path/outputs and of tone.wav unless told otherwise."""

    def go(*overrides: str) -> list[Run]:
        base = [f"prompt.path={sounds / 'tone.wav'}", f"outputs={tmp_path / 'outputs'}"]
        models = [one for one in tiny if "judge=none" not in overrides or "judge." not in one]
        runs = expand(compose(*models, "logger=none", *base, *overrides))
        runner.render(runs)
        return runs

    return go


def pixels(run: Run, suffix: str = "-native") -> np.ndarray:
    path = run.folder / "images" / f"seed{run.seed}{suffix}.png"
    return np.asarray(Image.open(path)).astype(int)


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a run's folder that may not differ from one time to the next."""
    aside = {"status.json", "log.txt", "config.yaml"}  # times, and where outputs go
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in aside]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_finished_folder_is_whole(render):
    (run,) = render()
    names = {str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if p.is_file()}
    assert names == {
        "config.yaml",
        "targets.json",
        "metrics.json",
        "embeddings.json",
        "environment.json",
        "losses.csv",
        "status.json",
        "log.txt",
        "images/seed0.png",
        "images/seed0-native.png",
        "previews/step_0002.png",
        "previews/step_0004.png",
    }
    assert folders.status(run.folder) == "ok"
    rows = list(csv.DictReader((run.folder / "losses.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    # the first step of a cosine schedule is pure noise and not guided
    assert rows[0]["clip"] == "" and all(float(row["clip"]) > 0 for row in rows[1:])
    scores = json.loads((run.folder / "metrics.json").read_text())
    assert scores["picture"]["judge"]["image_audio"] != scores["picture"]["encoder"]["image_audio"]
    assert 1 <= scores["picture"]["judge"]["rank"] <= scores["picture"]["judge"]["of"]
    assert Image.open(run.folder / "images/seed0.png").size == (256, 256)


def test_pictures_carry_their_config(render):
    (run,) = render("seed=5")
    info = Image.open(run.folder / "images/seed5.png").info
    assert info["signature"] == run.signature and info["seed"] == "5"
    assert json.loads(info["config"])["guidance"]["clip"] == run.cfg["guidance"]["clip"]


def test_the_same_bytes_twice(render, tmp_path):
    first, second = (
        contents(render("sampler=ddpm", "sampler.steps=4", f"outputs={tmp_path / name}")[0].folder)
        for name in ("a", "b")
    )
    assert first == second


def test_a_sample_alone_is_the_sample_among_others(render, sounds, tmp_path):
    # Cutouts and noise come from each sample's own generators; convolutions may sum in another
    # order, which was seen to move float pixels by 1e-5: at most one of 256 levels.
    together = render(f"prompt.path={sounds}", "seed=[0,1]", "batch_size=4")
    for run in together:
        path = run.cfg["prompt"]["path"]
        (alone,) = render(f"prompt.path={path}", f"seed={run.seed}", f"outputs={tmp_path / 'one'}")
        assert alone.signature == run.signature
        assert abs(pixels(alone) - pixels(run)).max() <= 1
    assert abs(pixels(together[0]) - pixels(together[1])).max() > 1
    assert abs(pixels(together[0]) - pixels(together[2])).max() > 1


def test_guidance_reaches_the_picture(render):
    (plain,), (guided,) = render("guidance.clip=0"), render("guidance.clip=3000")
    assert abs(pixels(plain) - pixels(guided)).max() > 1


def test_the_condition_reaches_the_picture(render):
    (plain,), (conditional,) = render("guidance.cfg_scale=0"), render("guidance.cfg_scale=3")
    assert abs(pixels(plain) - pixels(conditional)).max() > 1


def test_a_finished_run_is_left_alone_unless_forced(render, capsys):
    (run,) = render()
    picture = run.folder / "images/seed0.png"
    made = picture.stat().st_mtime_ns
    render()
    assert picture.stat().st_mtime_ns == made
    assert "made before" in capsys.readouterr().err
    render("force=true")
    assert picture.stat().st_mtime_ns > made


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp", "plms"])
def test_an_interrupted_run_goes_on_to_the_same_picture(render, monkeypatch, tmp_path, sampler):
    chosen = [f"sampler={sampler}", "sampler.steps=5", "seed=[0,1]"]
    whole = render(*chosen, f"outputs={tmp_path / 'whole'}")
    keep, seen = drawing.keep, []

    def stop_at_third(batch, step, count, *rest):
        seen.append(count)
        if count == 3 and len(seen) == 3:
            raise KeyboardInterrupt
        keep(batch, step, count, *rest)

    monkeypatch.setattr(drawing, "keep", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        render(*chosen)
    folder = tmp_path / "outputs" / "main"
    assert [folders.status(path) for path in folder.iterdir()] == ["interrupted"] * 2
    runs = render(*chosen)
    assert seen[3:] == [3, 4, 5]
    for run, expected in zip(runs, whole, strict=True):
        assert contents(run.folder) == contents(expected.folder)


def test_one_broken_sound_does_not_stop_the_others(render, sounds, tmp_path, capsys):
    (sounds / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(UserError, match="1 of 3 pictures failed"):
        render(f"prompt.path={sounds}")
    assert "broken" in capsys.readouterr().err
    found = {path.name.split("-")[0]: path for path in (tmp_path / "outputs/main").iterdir()}
    assert {name: folders.status(path) for name, path in found.items()} == {
        "broken": "failed",
        "hiss": "ok",
        "tone": "ok",
    }
    assert "Traceback" in json.loads((found["broken"] / "status.json").read_text())["traceback"]


def test_a_twin_is_the_same_seed_without_guidance(render):
    (weak,), (strong,) = (render("twin=true", f"guidance.clip={n}") for n in (500, 5000))
    assert (pixels(weak, "-twin-native") == pixels(strong, "-twin-native")).all()
    assert abs(pixels(weak) - pixels(weak, "-twin-native")).max() > 1
    scores = json.loads((weak.folder / "metrics.json").read_text())
    assert scores["twin"]["judge"]["concept"] == scores["picture"]["judge"]["concept"]


def test_an_init_image_is_where_it_starts(render, tmp_path):
    Image.new("RGB", (40, 30), (250, 10, 10)).save(tmp_path / "red.png")
    red = [f"init_image={tmp_path / 'red.png'}", "guidance.clip=0", "guidance.cfg_scale=0"]
    # random weights predict noise near 0; an x0 of theirs would have nothing of the picture
    red += ["model.predicts=eps", "model.clip_denoised=false", "sampler.steps=10"]
    (late,), (early,) = render(*red, "skip_steps=9"), render(*red, "skip_steps=1")
    target = np.array([250, 10, 10])
    assert abs(pixels(late) - target).mean() < abs(pixels(early) - target).mean()
    assert len((late.folder / "losses.csv").read_text().splitlines()) == 2


def test_words_join_the_sound(render):
    (run,) = render("describer=keywords", "describer.lists=[colours]", "describer.top_k=2")
    targets = json.loads((run.folder / "targets.json").read_text())["targets"]
    assert [target["kind"] for target in targets] == ["audio", "heard", "text", "text"]
    assert sum(target["weight"] for target in targets) == pytest.approx(1)


def test_a_mixed_prompt_without_a_judge(render):
    (run,) = render("judge=none", "prompt=mixed", "prompt.text=snow")
    assert "judge" not in json.loads((run.folder / "metrics.json").read_text())["picture"]


def test_the_notebooks_options_run(render):
    (run,) = render("experiment=faithful", "sampler.steps=3")
    assert folders.status(run.folder) == "ok"
    assert "tv" in (run.folder / "losses.csv").read_text()


class Compass:
    """A model of two dimensions whose labels and pictures are directions."""

    image_size, dim, scale_it, scale_at = 4, 2, 10.0, 10.0
    directions = {"north": (0.0, 1.0), "east": (1.0, 0.0), "south": (0.0, -1.0)}  # noqa: RUF012

    def text(self, texts):
        return torch.tensor([self.directions[text] for text in texts])


def test_scores_by_hand():
    view = zero_shot.Viewer(Compass(), ["north", "east"])
    image = torch.tensor([0.6, 0.8])
    targets = [
        Target(torch.tensor([0.0, 1.0]), 3.0, "text", "north"),
        Target(torch.tensor([1.0, 0.0]), -1.0, "audio", "wind"),
    ]
    score = view.score(image, targets, "east")
    assert score["image_text"] == pytest.approx(0.8)
    assert score["image_audio"] == pytest.approx(-0.6)
    assert score["similarity"] == pytest.approx((3 * 0.8 - 0.6) / 4)
    assert (score["rank"], score["of"]) == (2, 2)
    assert [name for name, _ in score["names"]] == ["north", "east"]
    assert view.rank(image, "south") == {"concept": "south", "rank": 3, "of": 3}
    assert scoring.concept_of(None, targets[:1], view) == "north"
    assert scoring.concept_of("south", targets, view) == "south"
    a_text = [Target(torch.zeros(2), 1.0, "text", "The north")]
    assert scoring.concept_of(None, a_text, view) == "north"


def test_a_share_of_a_sound_goes_to_the_labels_heard_in_it():
    view = zero_shot.Viewer(Compass(), ["north", "east"])
    wind = Target(torch.tensor([0.6, 0.8]), 2.0, "audio", "wind")
    text = Target(torch.tensor([1.0, 0.0]), 1.0, "text", "east")
    assert view.spoken([wind, text], 0.0) == [wind, text]
    sound, heard, same = view.spoken([wind, text], 0.75)
    assert (sound.weight, heard.weight, same) == (0.5, 1.5, text)
    assert (heard.kind, heard.label) == ("heard", "north")
    odds = np.exp(2 * 10 * (0.8 - 0.6))  # north against east, squared
    assert heard.embed[1] / heard.embed[0] == pytest.approx(odds, rel=1e-4)
    assert heard.embed.norm() == pytest.approx(1.0)
    assert [target.kind for target in view.spoken([wind], 1.0)] == ["heard"]


def test_what_is_heard_is_among_the_targets(render):
    (run,) = render("heard=0.25", "name=spoken")
    targets = json.loads((run.folder / "targets.json").read_text())["targets"]
    assert [(t["kind"], t["weight"]) for t in targets] == [("audio", 0.75), ("heard", 0.25)]
    with pytest.raises(UserError, match="heard=2"):
        render("heard=2", "name=wrong")


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    atomic_files.write(tmp_path / "a.txt", "old")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError):
        atomic_files.write(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_picture_of_no_numbers_fails_and_spares_the_others(tiny, sounds, tmp_path, capsys):
    """Two of one batch, of which one is guided out of all bounds."""
    base = [f"prompt.path={sounds / 'tone.wav'}", f"outputs={tmp_path / 'outputs'}", "logger=none"]
    good, bad = (
        expand(compose(*tiny, *base, f"guidance.clip={clip}"))[0] for clip in ("1000", "1e38")
    )
    with pytest.raises(UserError, match="1 of 2 pictures failed"):
        runner.render([good, bad])
    assert (folders.status(good.folder), folders.status(bad.folder)) == ("ok", "failed")
    error = folders.state(bad.folder)["error"]
    assert "seed 0" in error and "is not a finite number" in error and "guidance.clamp" in error
    assert not (bad.folder / "images").exists()
