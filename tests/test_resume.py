"""What was interrupted ends in the bytes of what was not."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, compose
from PIL import Image

from acgd.config import validate
from acgd.errors import UserError
from acgd.pipeline import batching, drawing, runner, snapshot
from acgd.pipeline.sample import Sample
from acgd.runs import locks
from acgd.runs.folder import Record, os, status
from acgd.runs.run import Run, expand, fingerprint

ASIDE = {"status.json", "log.txt", "config.yaml"}  # times, and where outputs go


class Killed(BaseException):
    """Ends the process where it stands, for all that the code can do about it."""


@pytest.fixture
def runs(tiny, tmp_path):
    """runs(*overrides) -> what they expand to: words, so that nothing has to be heard."""
    words = ["prompt=text", "prompt.text=snow", "judge=none", "enlarge_to=0", "logger=none"]
    models = [one for one in tiny if "judge." not in one]

    def go(*overrides: str) -> list[Run]:
        chosen = [
            *models,
            *words,
            "sampler.steps=6",
            "preview_every=3",
            f"outputs={tmp_path / 'outputs'}",
            *overrides,
        ]
        return expand(compose(*chosen))

    return go


@pytest.fixture
def kill(monkeypatch):
    """kill(at, error): end the sampling when that many steps were kept, of twins too."""
    after = snapshot.Watch.after

    def arm(at: int, error: type[BaseException] = Killed) -> None:
        steps = iter(range(1, at + 1))

        def stop(*arguments):
            after(*arguments)
            if next(steps, at) == at:
                raise error

        monkeypatch.setattr(snapshot.Watch, "after", stop)

    arm.disarm = lambda: monkeypatch.setattr(snapshot.Watch, "after", after)
    return arm


def contents(runs: list[Run]) -> dict[str, bytes]:
    folders = [run.folder for run in runs]
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    kept = [path for path in paths if path.name not in ASIDE]
    return {str(path.relative_to(folders[0].parent)): path.read_bytes() for path in kept}


def log(run: Run) -> str:
    return (run.folder / "log.txt").read_text()


SETTINGS = {
    "ddpm": ["sampler=ddpm", "seed=[0,1]"],
    "ddim": ["sampler=ddim", "sampler.eta=0.5", "guidance.every=2"],
    "plms": ["sampler=plms", "sampler.order=4", "seed=[0,1,2]", "batch_size=2"],
    "dpmpp": ["sampler=dpmpp", "seed=[0,1]", "twin=true"],
    "start": ["sampler=plms", "sampler.steps=9", "skip_steps=3", "guidance.init=100"],
    "shared": ["sampler=ddpm", "shared_noise=true", "picture=x0"],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_run_ends_in_the_same_bytes(runs, kill, tmp_path, name):
    chosen = list(SETTINGS[name])
    if name == "start":
        Image.new("RGB", (40, 30), (250, 10, 10)).save(tmp_path / "red.png")
        chosen.append(f"init_image={tmp_path / 'red.png'}")
    whole = runs(*chosen, f"outputs={tmp_path / 'whole'}")
    runner.render(whole)
    made = runs(*chosen, "snapshot_every=2")
    # killed after 3 steps, 2 are kept; stopped after 1 more, 3; then killed at 5, or in the twin
    in_twin = [(5, Killed), (1, KeyboardInterrupt)] if "twin=true" in chosen else [(2, Killed)]
    for at, error in ((3, Killed), (1, KeyboardInterrupt), *in_twin):
        kill(at, error)
        with pytest.raises(error):
            runner.render(made)
    assert (made[0].folder / "snapshot.pt").is_file()
    kill.disarm()
    runner.render(made)
    assert contents(made) == contents(whole)
    told = [line.split("after ")[1] for line in log(made[0]).splitlines() if "resumes" in line]
    assert told == ["2 steps", "3 steps", *(["2 steps", "3 steps"] if in_twin[1:] else ["4 steps"])]


def test_a_batch_stays_together_whatever_was_written_of_it(runs, kill, tmp_path):
    chosen = ["seed=[0,1,2,3,4]", "batch_size=3", "sampler.steps=4", "snapshot_every=1"]
    whole = runs(*chosen, f"outputs={tmp_path / 'whole'}")
    runner.render(whole)
    made = runs(*chosen)
    kill(3)
    with pytest.raises(Killed):
        runner.render(made)
    kill.disarm()
    # as if the kill had come while the third folder was written to, before it had a status
    (made[2].folder / "snapshot.pt").unlink()
    (made[2].folder / "status.json").unlink()
    runner.render([made[3], *made[:3], made[4]])
    assert contents(made) == contents(whole)
    assert "resumes after 3 steps" in log(made[2])


def test_what_was_begun_keeps_its_batch_whatever_auto_takes(runs, kill, tmp_path):
    chosen = ["seed=[0,1,2]", "sampler.steps=4", "snapshot_every=1"]
    whole = runs(*chosen, "batch_size=2", f"outputs={tmp_path / 'whole'}")
    runner.render(whole)
    kill(3)
    with pytest.raises(Killed):
        runner.render(runs(*chosen, "batch_size=2"))
    kill.disarm()
    made = runs(*chosen, "batch_size=auto")
    runner.render(made)
    assert "resumes after 3 steps" in log(made[1]) and contents(made) == contents(whole)


def test_one_of_a_batch_goes_on_alone(runs, kill):
    made = runs("seed=[0,1,2]", "sampler.steps=5", "snapshot_every=1")
    kill(4)
    with pytest.raises(Killed):
        runner.render(made)
    kill.disarm()
    runner.render(runs("seed=1", "sampler.steps=5"))
    assert "resumes after 4 steps" in log(made[1])
    runner.render(made)
    assert [status(run.folder) for run in made] == ["ok"] * 3
    assert "resumes after 4 steps" in log(made[0])
    assert not list(made[0].folder.parent.rglob("snapshot.pt"))


def test_a_batch_is_ok_as_a_whole(runs, monkeypatch, tmp_path):
    made = runs("seed=[0,1,2]", "sampler.steps=2")
    finish, said = Record.finish, []

    def once(record, **more):
        if said:
            raise Killed
        said.append(finish(record, **more))

    monkeypatch.setattr(Record, "finish", once)
    with pytest.raises(Killed):
        runner.render(made)
    written = contents(made)
    monkeypatch.setattr(drawing, "draw", None)  # nothing is sampled again
    (made[2].folder / ".lock").touch()  # killed before it was taken away
    runner.render(made)
    assert [status(run.folder) for run in made] == ["ok"] * 3
    gone = (".lock", ".acgd")  # what the dead process held and was about to say
    assert contents(made) == {k: v for k, v in written.items() if not k.endswith(gone)}


def test_a_snapshot_that_does_not_fit_is_told_of_and_left(runs, kill, tmp_path):
    whole = runs("sampler.steps=4", f"outputs={tmp_path / 'whole'}")
    runner.render(whole)
    (made,) = runs("sampler.steps=4", "snapshot_every=1")
    kill(2)
    with pytest.raises(Killed):
        runner.render([made])
    kill.disarm()
    path, sample = made.folder / "snapshot.pt", Sample(made)
    good = path.read_bytes()
    stand = snapshot.find([sample])
    assert stand.steps == 2
    for fault in (good[:-100], b"", good[:200] + b"x" + good[201:]):
        path.write_bytes(fault)
        assert snapshot.find([sample]) is None
        assert log(made).endswith("not a whole snapshot, starts anew\n")
    for other, says in (
        (replace(stand, versions={**stand.versions, "torch": "1.0"}), "torch 1.0"),
        (replace(stand, batch=["0" * 12]), "of other pictures"),
        (replace(stand, x=stand.x[..., :8]), "of another shape"),
    ):
        snapshot.save([sample], other)
        runner.render([made]) if "shape" in says else snapshot.find([sample])
        assert says in log(made)
    assert contents([made]) == contents(whole)
    assert "resumes" not in log(made)


def test_a_full_disk_loses_nothing(runs, monkeypatch, tmp_path):
    chosen = ["seed=[0,1,2]", "batch_size=2", "sampler.steps=3", "snapshot_every=1"]
    whole = runs(*chosen, f"outputs={tmp_path / 'whole'}")
    runner.render(whole)
    made = runs(*chosen)
    rename, room = os.replace, iter(range(12))

    def full(*arguments):
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(*arguments)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises((OSError, UserError), match=r"No space left|failed"):
        runner.render(made)
    assert not made[2].folder.exists()  # the second batch is not begun
    monkeypatch.setattr(os, "replace", rename)
    runner.render(made)
    assert contents(made) == contents(whole)


def test_what_another_process_makes_is_waited_for_and_taken_over(runs, monkeypatch, capsys):
    made = runs("seed=[0,1,2]", "batch_size=1", "sampler.steps=2")
    other = locks.held([made[0].folder, made[1].folder])
    assert other.__enter__()
    seen = []

    def end(_):
        """The other process has made the first and dies over the second."""
        seen.append([status(run.folder) for run in made])
        Record(made[0]).finish()
        other.__exit__(None, None, None)

    monkeypatch.setattr(batching.time, "sleep", end)
    runner.render(made)
    assert seen == [["absent", "absent", "ok"]]
    assert "another process is making 2 of the pictures" in capsys.readouterr().err
    assert not (made[0].folder / "images").exists()  # it was the other's
    assert (made[1].folder / "images").is_dir()
    assert not list(made[0].folder.parent.rglob(".lock"))


HOLDS = """
import sys, time
from pathlib import Path
from acgd.runs.locks import held
with held([Path(sys.argv[1])]) as mine:
    print(mine, flush=True)
    time.sleep(100)
"""


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/locks").is_file(), reason="Linux tells its locks there")
def test_nobody_waits_for_a_process_that_stays_stopped(runs, monkeypatch):
    made = runs("seed=[0,1,2]", "batch_size=1", "sampler.steps=2")
    call = [sys.executable, "-c", HOLDS, str(made[1].folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    other = subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "True\n"
        assert locks.stopped_holder(made[1].folder) is None  # it works
        other.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(batching, "STOPPED_FOR", 0.2)
        monkeypatch.setattr(batching, "PAUSE", 0.1)
        with pytest.raises(UserError, match="1 of 3 pictures failed"):
            runner.render(made)
        with pytest.raises(UserError, match=rf"process {other.pid} is making it .*kill -CONT"):
            runner.render(made[1:2])
        assert [status(run.folder) for run in made] == ["ok", "absent", "ok"]
    finally:
        other.kill()
        other.communicate()
    runner.render(made)
    assert [status(run.folder) for run in made] == ["ok"] * 3


def test_batches_are_the_same_again(runs):
    samples = [Sample(run) for run in runs("seed=[0,1,2,3,4,5,6]")]
    folders = [sample.run.folder for sample in samples]
    numbers = lambda size: [  # noqa: E731
        [sample.run.seed for sample in batch] for batch in batching.split(samples, size)
    ]
    assert numbers(3) == [[0, 1, 2], [3, 4, 5], [6]]
    samples[4].record.start(folders[3:6])  # its companions did not come to say so
    assert numbers(3) == [[3, 4, 5], [0, 1, 2], [6]]
    samples[5].record.start(folders[5:6])  # has gone on alone since
    assert numbers(4) == [[3, 4], [5], [0, 1, 2, 6]]


def test_what_it_was_made_with_is_in_its_folder(runs):
    (made,) = runs("sampler.steps=1")
    runner.render([made])
    record = json.loads((made.folder / "environment.json").read_text())
    assert record["packages"]["torch"] == torch.__version__
    checkpoint = Path(made.cfg["model"]["checkpoint"])
    assert record["files"]["model.checkpoint"] == fingerprint(checkpoint)
    assert (record["device"], record["precision"]) == ("cpu", "float32")
    assert record["threads"] == torch.get_num_threads() and record["device_name"]
    assert record["batch"] == [made.folder.name]


@pytest.mark.parametrize("pace", ["often", "10m", "-1", "true", "1.5"])
def test_a_pace_is_steps_or_seconds(runs, pace):
    assert validate.every(10) == (10, 0) and validate.every("0.5s") == (0, 0.5)
    with pytest.raises(UserError, match="snapshot_every"):
        runs(f"snapshot_every={pace}")
