"""Jobs of a sweep: composed without Hydra, announced, sampled together, and what they end in."""

from __future__ import annotations

import csv
import gc
import json
import math
import os
import shutil
import signal
import subprocess
import time
import weakref
from pathlib import Path

import hydra
import numpy as np
import pytest
from conftest import ROOT, command, compose
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from acgd import report
from acgd.errors import UserError
from acgd.paths import CONF
from acgd.pipeline import drawing, models, runner
from acgd.runs import run as run_module
from acgd.runs.run import Run, expand, resolve
from acgd.sweep import plugin
from acgd.sweep.compose import Composer
from acgd.sweep.jobs import Job, summary


@pytest.fixture
def composer():
    """A Composer over conf/ that remembers in `asked` what it asked Hydra for."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        loader, asked = GlobalHydra.instance().config_loader(), []

        def load(overrides):
            asked.append(overrides)
            return hydra.compose("config", overrides)

        made = Composer(load, loader.get_group_options)
        made.asked = asked
        yield made


@pytest.mark.parametrize(
    ("sweeps", "asks"),
    [
        ([["seed=0"], ["seed=1"], ["seed=[2,3]"]], 1),
        ([["guidance.clip=5e2", "seed=0"], ["guidance.clip=7", "seed=1"]], 1),
        ([["sampler=ddim", "seed=0"], ["sampler=ddim", "seed=1"], ["sampler=plms", "seed=1"]], 2),
        ([["prompt=audio", "prompt.path='*.wav'"], ["prompt=audio", "prompt.path=b.wav"]], 1),
        ([["prompt=text", "prompt.text='a: b, {c}'"], ["prompt=text", "prompt.text=[x,'1e3']"]], 1),
        ([["+guidance.extra=1", "seed=0"], ["+guidance.extra=2", "seed=0"]], 2),
        ([["prompt={path: a.wav}", "seed=1"], ["prompt={path: b.wav}", "seed=1"]], 2),
        ([["guidance={clip: 3}", "guidance.clip=4"], ["guidance={clip: 5}", "guidance.clip=6"]], 2),
        ([["guidance/schedule=cosine", "guidance.schedule.first=0.5"]], 1),
        ([["concept=null", "name=a"], ["concept=null", "name='b c'"]], 1),
        ([["name=${outputs}", "seed=1"], ["name=${outputs}", "seed=2"]], 2),
        ([["experiment=faithful", "guidance.tv=1"], ["experiment=faithful", "guidance.tv=2"]], 1),
    ],
)
def test_a_job_s_config_is_what_hydra_makes_of_it(composer, sweeps, asks):
    found = [composer(overrides) for overrides in sweeps]
    # one that follows from another is found out once, and is Hydra's from then on
    assert asks <= len(composer.asked) <= asks + any("${" in " ".join(one) for one in sweeps)
    for overrides, cfg in zip(sweeps, found, strict=True):
        assert cfg == resolve(hydra.compose("config", overrides))


def test_jobs_share_what_is_equal(composer):
    first, second = composer(["seed=0", "heard=0.5"]), composer(["seed=1", "heard=0.5"])
    assert first["model"] is second["model"] and first["guidance"] is second["guidance"]
    assert (first["seed"], second["seed"]) == (0, 1)


def test_a_key_that_is_not_there_is_hydra_s_error(composer):
    with pytest.raises(hydra.errors.ConfigCompositionException, match="clipp"):
        composer(["seed=0", "guidance.clipp=3"])


@pytest.fixture
def together(tiny, sounds, tmp_path, monkeypatch):
    """together([overrides, ...]) -> the jobs of a sweep, made in this process; with `.batches`."""

    def go(*sweeps: list[str]) -> list[Job]:
        base = [f"prompt.path={sounds / 'tone.wav'}", f"outputs={tmp_path / 'outputs'}"]
        base += ["logger=none", *tiny]
        folder = tmp_path / "outputs/main/sweeps" / str(len(go.batches))
        made = [Job(folder / str(i), overrides) for i, overrides in enumerate(sweeps)]
        plugin.announce(made, [resolve(compose(*base, *given)) for given in sweeps])
        plugin.make(made)
        return made

    draw = drawing.draw
    go.batches = []

    def counting(batch, *rest, **more):
        go.batches.append([(sample.run.label, sample.run.seed) for sample in batch])
        return draw(batch, *rest, **more)

    monkeypatch.setattr(drawing, "draw", counting)
    return go


def pixels(run: Run) -> np.ndarray:
    return np.asarray(Image.open(run.folder / f"images/seed{run.seed}-native.png")).astype(int)


def losses(run: Run) -> list[dict[str, str]]:
    return list(csv.DictReader((run.folder / "losses.csv").open()))


def test_jobs_that_differ_in_weights_share_a_batch_and_come_out_as_alone(
    together, sounds, tmp_path
):
    # the model's random weights leave it to guidance: 300 and 6000 are far apart
    settings = [
        ["guidance.clip=300", "seed=[0,1]"],
        ["guidance.clip=6000", "guidance.cfg_scale=3", "seed=[0,1]"],
        ["guidance.clip=6000", "guidance.range=20", "heard=0.5", f"prompt.path={sounds}/hiss.wav"],
        ["guidance.clip=6000", "guidance.tv=9"],  # another loss: not in their batch
    ]
    pooled = together(*settings)
    assert [len(batch) for batch in together.batches] == [5, 1]
    assert [job.status for job in pooled] == ["ok"] * 4
    weak, strong = pooled[0].runs[0], pooled[1].runs[0]
    assert abs(pixels(weak) - pixels(strong)).max() > 1
    kept = tmp_path / "kept"
    shutil.move(tmp_path / "outputs", kept)
    for given, before in list(zip(settings, pooled, strict=True))[1:3]:
        together.batches.clear()
        (alone,) = together([*given, "batch_size=1"])
        assert all(len(batch) == 1 for batch in together.batches)
        for run, old in zip(alone.runs, before.runs, strict=True):
            assert run.signature == old.signature
            old = Run(old.cfg, old.seed, "", "", kept / "main" / old.folder.name)
            assert abs(pixels(run) - pixels(old)).max() <= 1
            for a, b in zip(losses(run), losses(old), strict=True):
                assert a.keys() == b.keys()
                for key in a:
                    assert float(a[key] or 0) == pytest.approx(float(b[key] or 0), rel=1e-3)


def test_a_batch_that_fails_is_tried_one_by_one(together, monkeypatch):
    draw = drawing.draw

    def fails_for_seed_2(batch, *rest, **more):
        if any(sample.run.seed == 2 for sample in batch):
            raise RuntimeError("out of memory")
        return draw(batch, *rest, **more)

    monkeypatch.setattr(drawing, "draw", fails_for_seed_2)
    made = together(*[[f"seed={seed}"] for seed in range(4)])
    assert [job.status for job in made] == ["ok", "ok", "failed", "ok"]
    said = json.loads((made[2].folder / "status.json").read_text())
    assert "out of memory" in said["error"] and "Traceback" in said["traceback"]


def test_models_are_made_once_and_never_two_at_a_time(together, monkeypatch):
    made, encoders, make = [], [], models.make

    def counting(node, **known):
        name = Path(str(node.get("checkpoint", node["_target_"]))).stem
        made.append(name)
        if name == "encoder":
            gc.collect()
            assert not any(one() for one in encoders)
        built = make(node, **known)
        encoders.extend([weakref.ref(built)] if name == "encoder" else [])
        return built

    monkeypatch.setattr(models.CACHE, "kept", {})
    monkeypatch.setattr(models, "make", counting)
    other = "encoder.truncate=false"
    together(["sampler=ddim"], ["sampler=ddim", other], ["sampler=ddpm"], ["sampler=ddpm", other])
    assert len(together.batches) == 4
    assert [made.count(name) for name in ("unet", "encoder", "judge")] == [1, 2, 1]


def test_jobs_are_announced_before_anything_is_made(together, monkeypatch, tmp_path):
    def look(batch, *rest, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(drawing, "draw", look)
    with pytest.raises(KeyboardInterrupt):
        together(["seed=[0,1]"], ["seed=2"])
    states = [
        json.loads((tmp_path / f"outputs/main/sweeps/0/{n}/status.json").read_text())
        for n in (0, 1)
    ]
    assert [state["status"] for state in states] == ["interrupted"] * 2
    for name in states[0]["runs"]:
        assert (tmp_path / "outputs/main" / name / "config.yaml").is_file()
    assert [len(state["runs"]) for state in states] == [2, 1]


def test_a_job_s_value_is_the_mean_of_its_score(together, sounds):
    made = together(
        ["optimize=judge.image_audio", "seed=[0,1]"],
        ["optimize=judge.image_audio", "seed=3", f"prompt.path={sounds}"],
        ["optimize=judge.image_text"],  # there is no text
        ["seed=0"],
    )
    found = [
        json.loads((run.folder / "metrics.json").read_text())["picture"]["judge"]["image_audio"]
        for run in made[0].runs
    ]
    assert made[0].value() == pytest.approx(sum(found) / 2)
    assert math.isfinite(made[1].value()) and made[3].value() is None
    assert made[2].value() is None and made[2].status == "failed"
    failed = Job(made[0].folder.with_name("9"), [])
    failed.fail(UserError("no such sound"))
    assert failed.value() is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["optimize=beauty"], "no such score"),
        (["optimize=judge.similarity", "judge=none"], "there is none"),
        (["optimize=gain"], "twin=true"),
        (["optimize=twin.encoder.similarity"], "twin=true"),
        (["guidance.clip=much"], "guidance.clip=much"),
        (["guidance.cfg_scale=true"], "guidance.cfg_scale=true"),
    ],
)
def test_mistakes_are_told_before_the_sampling(given, says):
    with pytest.raises(UserError, match=says):
        expand(compose(*given))
    expand(compose("optimize=gain", "twin=true"))


def test_after_a_failure_nothing_is_begun_where_so_asked(together, sounds, capsys):
    (sounds / "broken.wav").write_bytes(b"RIFF")
    paths = [["fail_fast=true", f"prompt.path={sounds}/{name}.wav"] for name in ("tone", "broken")]
    made = together(*paths)
    assert [job.status for job in made] == ["not started", "failed"]
    assert not together.batches
    assert summary(made[0].folder.parent) == 1
    assert "not started: prompt.path=" in capsys.readouterr().err


def sweeping(*arguments: str, cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        command(*arguments, "-m"),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.process
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["seed=range(0)"], "seed=range(0): this names no value, so there is no job"),
        (["seed=range(1000000)"], "names more jobs than the 100000 of one command"),
        (["prompt.path=nothing/*.wav", "seed=0,1"], "no sound files in the glob nothing/*.wav"),
        (["sampler=ddim,nope", "seed=0,1"], "Could not find 'sampler/nope'"),
        (["seed=0,1", "guidance.clip=much"], "guidance.clip=much: must be a number"),
    ],
    ids=["empty", "a-million", "no-sounds", "no-group", "no-number"],
)
def test_a_sweep_that_cannot_be_is_one_line(tmp_path, given, says):
    process = sweeping(*given, cwd=tmp_path)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1 and errors.startswith("acgd: ") and says in errors


@pytest.mark.parametrize(
    "said, alone, swept", [("auto", True, False), ("true", True, True), ("false", False, False)]
)
def test_runs_of_a_sweep_have_pages_of_their_own_only_when_told(
    said, alone, swept, tiny, tmp_path, monkeypatch
):
    """A lone command's have them unless told otherwise; a sweep's page shows its pictures."""
    made = []
    monkeypatch.setattr(runner.hooks, "of_run", made.append)
    monkeypatch.setattr(runner.hooks, "of_name", made.append)
    given = [*tiny, "experiment=smoke", "preview_every=0", "seed=[0,1]", f"report={said}"]
    cfg = compose(*given, f"outputs={tmp_path / 'alone'}")
    runner.render(runs := expand(cfg))
    home = runs[0].folder.parent
    assert made == ([run.folder for run in runs] + [home] if alone else [])
    made.clear()
    cfg = compose(*given, f"outputs={tmp_path / 'swept'}")
    job = Job(tmp_path / "swept/main/sweeps/date/0", given)
    runner.render(runs := job.expand(cfg))
    assert made == ([run.folder for run in runs] + [runs[0].folder.parent] if swept else [])
    assert all(run.signature == run_module.signature(run.cfg) for run in runs)
    for run in runs:  # preview_every=0: losses, and no preview
        rows = (run.folder / "losses.csv").read_text().splitlines()
        assert len(rows) > 1 and not (run.folder / "previews").exists()


@pytest.mark.process
@pytest.mark.slow
def test_a_sweep_as_it_is_typed(tmp_path, tiny, sounds):
    """Sounds by settings by seeds, one sound broken: one process, whole batches, a page."""
    (sounds / "broken.wav").write_bytes(b"RIFF")
    kept = [one for one in tiny if one != "report=false"]
    given = [*kept, "logger=none", "prompt=audio", "prompt.path='sounds/*.wav'"]
    given += ["guidance.clip=500,1000", "seed=range(0,2)", "batch_size=8"]
    process = sweeping(*given, cwd=tmp_path)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    (folder,) = (tmp_path / "outputs/main/sweeps").iterdir()
    states = [json.loads((folder / f"{n}/status.json").read_text()) for n in range(4)]
    assert [state["status"] for state in states] == ["failed"] * 4  # each has the broken sound
    assert all("broken" in state["error"] for state in states)
    finished = [
        path.parent.parent.name for path in tmp_path.glob("outputs/main/*/images/seed?.png")
    ]
    assert len(finished) == 8
    assert {name for state in states for name in state["runs"]} >= set(finished)
    assert errors.count("0 of 4 jobs ok (8 of 12 pictures)") == 1
    assert (folder / "report.html").is_file() and str(folder.name) in said
    runs = [tmp_path / "outputs/main" / name for name in finished]
    assert not any((run / made).exists() for run in runs for made in ("report.html", "report"))
    own = report.build(runs[0])  # as acgd report does
    assert own == runs[0] / "report.html" and own.is_file()


@pytest.mark.process
def test_a_sweep_that_is_ended_says_so_and_goes_on(tmp_path, tiny, sounds):
    given = [*tiny, "logger=none", f"prompt.path={sounds}/tone.wav", "batch_size=1"]
    given += ["seed=range(0,60)"]
    process = sweeping(*given, cwd=tmp_path)
    jobs = tmp_path / "outputs/main/sweeps"
    done = lambda: [p for p in jobs.glob("*/*/status.json") if '"ok"' in p.read_text()]  # noqa: E731
    deadline = time.monotonic() + 200
    while not done() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 143 and "Traceback" not in errors
    (folder,) = (tmp_path / "outputs/main/sweeps").iterdir()
    states = [json.loads(path.read_text()) for path in folder.glob("*/status.json")]
    assert len(states) == 60
    assert {state["status"] for state in states} == {"ok", "interrupted"}
    assert errors.rstrip().splitlines()[-1].startswith("acgd: sweep: ")


def test_equal_sounds_of_different_jobs_are_named(tiny, sounds, capsys):
    shutil.copy(sounds / "tone.wav", sounds / "again.wav")
    runs = [run for name in ("tone", "again", "hiss") for run in
            expand(compose(*tiny, f"prompt.path={sounds / name}.wav"))]  # fmt: skip
    plugin.tell_of_twins(runs)
    said = capsys.readouterr().err
    assert said == "acgd: again has the same content as tone: the same picture twice\n"
    (sounds / "b").mkdir()
    shutil.copy(sounds / "hiss.wav", sounds / "b" / "hiss.wav")  # one name in two folders
    paths = [sounds / "hiss.wav", sounds / "b" / "hiss.wav"]
    plugin.tell_of_twins([run for path in paths for run in
                          expand(compose(*tiny, f"prompt.path={path}"))])  # fmt: skip
    first, second = paths
    said = f"acgd: {second} has the same content as {first}: "
    assert capsys.readouterr().err == f"{said}the same picture twice\n"
    assert len(expand(compose(*tiny, f"prompt.path=[{first},{second}]"))) == 1
    assert capsys.readouterr().err == f"{said}one picture for both\n"


def test_many_seeds_are_told_apart_without_reading_the_files_again(tiny, sounds, monkeypatch):
    read = []
    monkeypatch.setattr(run_module, "hashed", lambda path, size: read.append(path) or "0" * 64)
    given = [*tiny, f"prompt.path={sounds / 'tone.wav'}"]
    runs = expand(compose(*given, f"seed=[{','.join(map(str, range(50)))}]"))
    assert len(read) == len(set(read))
    (alone,) = expand(compose(*given, "seed=49"))
    assert len({one.signature for one in runs}) == 50 and runs[49] == alone
    with pytest.raises(UserError, match="names 100001 pictures, more than the 100000"):
        expand({**runs[0].cfg, "seed": list(range(100_001))})


def test_what_a_job_was_given_is_shown_as_it_was_typed(tmp_path):
    given = (["prompt.path=demo\\:dog", "seed=1"], ["prompt.path=demo\\:pig", "seed=1"])
    assert plugin.values([Job(tmp_path, words) for words in given]) == [
        "prompt.path=demo:dog",
        "prompt.path=demo:pig",
    ]
