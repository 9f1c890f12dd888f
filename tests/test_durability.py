"""What says that it is finished is on the disk, stays whole, and is made again where it is not."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, command, compose

from acgd import atomic_files
from acgd.commands import verify
from acgd.errors import UserError
from acgd.pipeline import runner
from acgd.runs import folder as folders
from acgd.runs import manifest
from acgd.runs.run import Run, expand


@pytest.fixture
def runs(tiny, tmp_path):
    """runs(*overrides) -> what they expand to: words, so that nothing has to be heard."""
    words = ["prompt=text", "prompt.text=snow", "judge=none", "enlarge_to=0", "logger=none"]
    models = [one for one in tiny if "judge." not in one]
    chosen = [*models, *words, "sampler.steps=2", f"outputs={tmp_path / 'out puts'}"]
    return lambda *overrides: expand(compose(*chosen, *overrides))


def stand(made: list[Run]) -> dict[str, tuple[int, int]]:
    """Every file with its place on the disk and its time, which a change would change."""
    paths = [path for run in made for path in run.folder.rglob("*") if path.is_file()]
    stats = {str(path): path.stat() for path in paths if path.name != ".lock"}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def test_contents_are_on_the_disk_before_a_batch_says_ok(runs, monkeypatch):
    made, seen = runs("seed=[0,1,2]"), []
    flush = atomic_files.flush

    def watch(given):
        assert sorted(given) == sorted(run.folder for run in made)
        seen.append((stand(made), [folders.status(run.folder) for run in made]))
        flush(given)

    monkeypatch.setattr(atomic_files, "flush", watch)
    runner.render(made)
    (before, first), (after, last) = seen
    assert (first, last) == (["running"] * 3, ["ok"] * 3)
    assert last == [folders.status(run.folder) for run in made] and after == stand(made)
    changed = {Path(name).name for name in after if before.get(name) != after[name]}
    assert changed == {"status.json"}
    # and those were on the disk under their temporary names
    assert {after[name][0] for name in after if name.endswith("status.json")} <= {
        inode for inode, _ in before.values()
    }
    for run in made:
        promised = json.loads((run.folder / "status.json").read_text())["files"]
        assert promised == manifest.take(run.folder)
        assert {"config.yaml", "metrics.json", f"images/seed{run.seed}.png"} <= promised.keys()


def test_without_a_call_for_the_whole_disk_every_file_and_folder_is_flushed(tmp_path, monkeypatch):
    run, flushed, fsync = tmp_path / "a" / "b" / "run", [], os.fsync
    (run / "images").mkdir(parents=True)
    (run / "images" / "x.png").write_bytes(b"x")
    (run / "status.json").write_bytes(b"{}")

    def note(descriptor):
        flushed.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(atomic_files, "whole_disk", lambda: None)
    monkeypatch.setattr(os, "fsync", note)
    atomic_files.flush([run])
    order = [{p.stat().st_ino for p in level} for level in (
        [run / "images" / "x.png", run / "status.json"],
        [run, run / "images"],
        [run.parent, run.parent.parent, tmp_path],
    )]  # fmt: skip
    assert [set(flushed[:2]), set(flushed[2:4]), set(flushed[4:])] == order


def test_a_disk_that_fails_is_a_failure_and_not_a_picture(runs, monkeypatch):
    (made,) = runs()

    def broken(given):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(atomic_files, "flush", broken)
    with pytest.raises(OSError, match="Input/output error"):
        runner.render([made])
    assert folders.status(made.folder) == "failed"


def empty(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "status.json":
            path.write_bytes(b"")


DAMAGE = {
    "gone": lambda folder: (folder / "images/seed1.png").unlink(),
    "cut": lambda folder: os.truncate(folder / "images/seed1.png", 100),
    "longer": lambda folder: (folder / "metrics.json").open("a").write(" "),
    "previews": lambda folder: (folder / "previews/step_0002.png").unlink(),
    "emptied": empty,
    "without status": lambda folder: (folder / "status.json").write_bytes(b""),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_run_is_made_again_and_no_other(runs, kind, capsys):
    made = runs("seed=[0,1]", "batch_size=1")
    runner.render(made)
    whole = {path.name: path.read_bytes() for path in made[1].folder.rglob("*.png")}
    before = stand(made[:1])
    DAMAGE[kind](made[1].folder)
    capsys.readouterr()
    runner.render(made)
    said = capsys.readouterr().err
    assert ("is damaged (" in said) == (kind != "without status")
    assert whole == {path.name: path.read_bytes() for path in made[1].folder.rglob("*.png")}
    assert folders.finished(made[1].folder) and stand(made[:1]) == before
    assert verify.verify(made[0].folder.parent) == 0


def test_runs_from_before_there_was_a_manifest(runs):
    (made,) = runs()
    runner.render([made])
    state = folders.state(made.folder)
    del state["files"]
    (made.folder / "status.json").write_text(json.dumps(state))
    assert folders.finished(made.folder)
    (made.folder / "images/seed0.png").write_bytes(b"")
    assert not folders.finished(made.folder)
    (made.folder / "images/seed0.png").unlink()
    assert manifest.fault(made.folder, state) == "its picture is gone"


def test_verify_reads_every_byte(runs, capsys):
    made = runs("seed=[0,1,2]")
    runner.render(made)
    home = made[0].folder.parent
    capsys.readouterr()
    assert verify.main([str(home)]) == 0
    assert capsys.readouterr().out == "3 runs: 3 whole\n"
    picture = made[1].folder / "images/seed1.png"
    data = bytearray(picture.read_bytes())
    data[200] ^= 1
    picture.write_bytes(data)
    (made[2].folder / "status.json").write_bytes(b"")
    assert folders.finished(made[1].folder)  # its size is right
    assert verify.main([str(home.parent)]) == 1
    told = capsys.readouterr().out
    assert f"{made[1].folder}: images/seed1.png holds other bytes than were written" in told
    assert f"{made[2].folder}: status.json is gone or unreadable" in told
    assert "3 runs: 1 whole, 2 damaged" in told
    assert verify.main([str(made[0].folder)]) == 0
    with pytest.raises(UserError, match="no runs"):
        verify.verify(home.parent / "other")


def test_only_own_leftovers_are_tidied_away(tmp_path):
    theirs = [tmp_path / name for name in (".backup.2024", ".notes.txt.1", "a.1.acgd", ".x.acgd")]
    for path in theirs:
        path.write_text("mine")
    (tmp_path / ".folder.1.acgd").mkdir()
    atomic_files.stage(tmp_path / "status.json", "{}")
    atomic_files.stage(tmp_path / "status.json", "{}", ".ok")
    atomic_files.tidy(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*theirs, tmp_path / ".folder.1.acgd"])


SAYS = """
import sys
from acgd.commands import terminal
from tqdm import tqdm
terminal.prepare()
for i in tqdm(range(3)):
    print("h\\u00e4llo \\U0001f436" * 3000, flush=i == 1)
    print("sagt", file=sys.stderr)
open(sys.argv[1], "x").close()
"""
PLACES = {
    "a pipe that nobody reads": "{} 2>&1 | true; exit ${{PIPESTATUS[0]}}",
    "a full disk": "{} > /dev/full 2> /dev/full",
    "closed": "{} >&- 2>&- <&-",
    "no letters": "PYTHONIOENCODING=ascii {} > /dev/null 2>&1",
}


@pytest.mark.process
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("place", PLACES)
def test_what_cannot_be_shown_ends_nothing(tmp_path, place):
    (tmp_path / "says.py").write_text(SAYS)
    line = PLACES[place].format(f"'{sys.executable}' '{tmp_path / 'says.py'}' '{tmp_path / 'end'}'")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line], env=environment, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "end").exists()


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_a_finished_picture_is_finished_though_nobody_can_be_told(runs, monkeypatch):
    (made,) = runs()
    monkeypatch.setattr(sys, "stdout", Broken())
    runner.render([made])
    assert folders.finished(made.folder)


@pytest.mark.process
def test_a_run_with_its_output_closed(tiny, tmp_path):
    words = ["prompt=text", "prompt.text=snow", "logger=none", "name=a"]
    call = " ".join(f"'{word}'" for word in command(*tiny, *words))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        ["bash", "-c", f"{call} >/dev/full 2>&-"], cwd=tmp_path, env=environment, timeout=120
    )
    assert done.returncode == 0
    assert verify.verify(tmp_path / "outputs" / "a") == 0
