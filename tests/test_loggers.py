"""W&B as a mirror: what it records, that it can't stop or hang a run, and replaying later."""

from __future__ import annotations

import csv
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, compose
from PIL import Image

from acgd.atomic_files import write
from acgd.commands import sync_wandb
from acgd.commands.run import quoted
from acgd.config.instantiate import build
from acgd.errors import UserError
from acgd.loggers import wandb, wandb_worker
from acgd.pipeline import runner
from acgd.runs.run import expand, resolve


@pytest.fixture(autouse=True)
def own_child(monkeypatch):
    """Each test has a child of its own, whatever W&B service its process had before."""
    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/nowhere")
    monkeypatch.setattr(wandb, "_desk", None)
    yield
    if wandb._desk is not None:
        wandb._desk.child.stop()


@pytest.fixture
def server():
    """An address on loopback; what it does with requests is set by `server.how`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.server.asked += 1
            if self.server.how == "hang":
                time.sleep(60)
            self.send_error(500)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.daemon_threads, found.asked = True, 0
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()


@pytest.fixture(scope="session")
def example(tmp_path_factory) -> Path:
    """A finished run's folder as the runner leaves it, written by hand."""
    folder = tmp_path_factory.mktemp("example") / "dog-seed0-aaaaaaaaaaaa"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(folder / "images" / "seed0.png")
    about = {"name": "main", "logger": {"group": None}}
    for group, target in (("sampler", "samplers.ddim.DDIM"), ("prompt", "prompts.audio.Audio")):
        about[group] = {"_target_": f"acgd.{target}"}
    write(folder / "config.yaml", json.dumps(about))
    scores = {"judge": {"similarity": 0.25}}
    metrics = {"signature": "aaaaaaaaaaaa", "caption": "a dog", "picture": scores}
    write(folder / "metrics.json", json.dumps(metrics))
    write(folder / "losses.csv", "step,t,clip\n1,3,0.5\n2,2,\n")
    write(folder / "status.json", json.dumps({"status": "ok"}))
    return folder


def copied(example: Path, to: Path, signature: str, age: float = 0) -> Path:
    """Another run like it, finished `age` seconds ago."""
    folder = to / f"dog-seed0-{signature}"
    shutil.copytree(example, folder)
    metrics = json.loads((folder / "metrics.json").read_text()) | {"signature": signature}
    write(folder / "metrics.json", json.dumps(metrics))
    os.utime(folder / "metrics.json", (time.time() - age,) * 2)
    return folder


def inspected(folder: Path) -> list[dict]:
    """The records of a run's newest offline W&B run, as W&B itself reads them back."""
    newest = sorted((folder / "wandb").glob("offline-run-*"))[-1]
    command = os.path.join(os.path.dirname(sys.executable), "wandb")
    said = subprocess.run([command, "leet", "inspect", "--json", newest], capture_output=True)
    return [json.loads(line) for line in said.stdout.splitlines()]


def test_the_sound_is_the_pages_or_the_prompts_own(sounds, tmp_path):
    tone = sounds / "tone.wav"
    of = lambda path: wandb_worker.sound_of(tmp_path, {"prompt": {"path": path}})  # noqa: E731
    assert of(str(tone)) == tone  # a sweep's runs have no page
    assert of("demo:dog").stem == "dog" and of("demo:dog").is_file()
    assert of("demo:nothing") is of(str(tmp_path / "gone.wav")) is of(None) is None
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "sound.mp3").write_bytes(b"cut")
    assert of(str(tone)) == of("demo:dog") == tmp_path / "report" / "sound.mp3"


@pytest.mark.process
def test_an_offline_run_holds_config_losses_picture_and_metrics(tiny, sounds, tmp_path, capfd):
    path = f"prompt.path={sounds / 'tone.wav'}"
    cfg = compose(*tiny, path, f"outputs={tmp_path}", "logger=wandb", "logger.timeout=200")
    runs = expand(cfg)
    runner.render(runs)
    run = runs[0]
    records = inspected(run.folder)
    start = next(record["run"] for record in records if record["type"] == "run")
    assert start["run_id"] == run.signature
    assert start["run_group"] == "main" and start["job_type"] == "sample"
    assert start["tags"] == ["main", "dpmpp", "audio"]
    assert start["config"]["update"]["guidance"]["clip"] == run.cfg["guidance"]["clip"]
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    rows = list(csv.DictReader((run.folder / "losses.csv").open()))
    recorded = [item["clip"] for item in items if "clip" in item]
    assert recorded == pytest.approx([float(row["clip"]) for row in rows if row["clip"]])
    pictures = [item for item in items if any("caption" in key for key in item)]
    assert pictures and "tone" in json.dumps(pictures)
    scores = json.loads((run.folder / "metrics.json").read_text())["picture"]["judge"]
    assert items[-1]["judge/similarity"] == scores["similarity"]
    names = {key.partition(".")[0] for key in items[-1]}
    assert {"picture", "sound"} <= names and "seed0" not in names
    assert "audio-file" in json.dumps(items[-1])
    assert wandb_worker.mirrored(run.folder, "offline") and not wandb_worker.mirrored(
        run.folder, "online"
    )
    assert not capfd.readouterr().out.count("wandb")


def test_a_failed_run_is_there_with_its_line(tiny, sounds, tmp_path, capfd):
    given = [f"prompt.path={sounds / 'tone.wav'}", f"outputs={tmp_path}", "guidance.clip=1e30"]
    runs = expand(compose(*tiny, *given, "logger=wandb", "logger.timeout=200"))
    with pytest.raises(UserError, match="lower guidance"):
        runner.render(runs)
    records = inspected(runs[0].folder)
    start = next(record["run"] for record in records if record["type"] == "run")
    assert start["run_id"] == runs[0].signature
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert items[-1]["status"] == "failed" and "lower guidance" in items[-1]["error"]
    assert next(record["exit"] for record in records if record["type"] == "exit")


@pytest.mark.process
def test_one_child_serves_every_job_of_a_process(example, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    pids = set()
    for signature in ("1" * 12, "2" * 12):
        logger = build({"_target_": "acgd.loggers.wandb.WandB", "group": "a sweep", "tags": ["x"]})
        logger.begin()
        folder = copied(example, tmp_path, signature)
        logger.tell([folder])
        logger.mirror([folder])
        pids.add(wandb._desk.child.process.pid)
        records = inspected(folder)
        start = next(record["run"] for record in records if record["type"] == "run")
        assert start["run_group"] == "a sweep" and start["tags"][-1] == "x"
        assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    assert len(pids) == 1
    assert not (tmp_path / "home").exists()


def test_a_hanging_wandb_is_left_behind(example, tmp_path, monkeypatch, capsys):
    (tmp_path / "wandb.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    logger = build({"_target_": "acgd.loggers.wandb.WandB", "timeout": 1})
    logger.begin()
    began = time.monotonic()
    logger.mirror([copied(example, tmp_path, c * 12) for c in "abc"])
    logger.mirror([copied(example, tmp_path, "d" * 12)])
    assert time.monotonic() - began < 10
    assert wandb._desk.child.process.poll() is not None
    said = capsys.readouterr().err
    assert said.startswith("acgd: W&B: no answer in time") and said.count("\n") == 1


def test_a_failing_wandb_is_one_line(tmp_path, capsys):
    logger = build({"_target_": "acgd.loggers.wandb.WandB"})
    logger.begin()
    logger.mirror([tmp_path / "not a run", tmp_path / "nor this"])
    said = capsys.readouterr().err
    assert said.startswith("acgd: W&B: not a run: ") and said.count("\n") == 1


@pytest.mark.process
@pytest.mark.parametrize("how", [pytest.param("hang", marks=pytest.mark.slow), "refuse"])
def test_a_server_that_does_not_work_leaves_an_offline_run(
    how, server, example, tmp_path, monkeypatch, capsys
):
    server.how = how
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    folder, began = copied(example, tmp_path, "b" * 12), time.monotonic()
    logger = build({"_target_": "acgd.loggers.wandb.WandB", "mode": "online", "timeout": 30})
    logger.about["timeout"] = 6.0  # of its start, a third
    logger.begin()
    wandb._desk.orders.put((logger.about | {"folder": str(folder)}, 60.0))
    logger.mirror([])
    assert time.monotonic() - began < 60 and server.asked
    said = capsys.readouterr().err
    assert said.startswith("acgd: W&B: recorded offline: ") and said.count("\n") == 1
    assert inspected(folder)
    assert not wandb_worker.mirrored(folder, "online")


@pytest.mark.process
def test_finished_runs_are_replayed_once_in_order(example, tmp_path, capsys, monkeypatch):
    home = tmp_path / "outputs" / "main"
    runs = [copied(example, home, name * 12, age) for name, age in (("a", 5), ("b", 50), ("c", 9))]
    (runs[2] / "losses.csv").write_text("step\nnot a number\n")
    (runs[2] / "images" / "seed0.png").unlink()
    job = home / "sweeps" / "monday" / "0"
    job.mkdir(parents=True)
    write(job / "status.json", json.dumps({"overrides": ["x=1"], "runs": [runs[0].name]}))
    said = synced(home.parent, capsys, monkeypatch, code=1)
    assert said.splitlines() == [
        "3 runs that ended, 0 of them recorded before",
        f"1/3  {runs[1].name}",
        f"3/3  {runs[0].name}",
        "2 runs recorded, 1 left out",
    ]
    start = next(r["run"] for r in inspected(runs[0]) if r["type"] == "run")
    assert start["run_group"] == "monday"
    assert "2 of them recorded before" in synced(home, capsys, monkeypatch, code=1)
    assert synced(runs[1], capsys, monkeypatch, "--again").endswith("1 runs recorded, 0 left out\n")


@pytest.mark.process
def test_failed_runs_are_replayed_with_their_line(example, tmp_path, capsys, monkeypatch):
    good, bad = (copied(example, tmp_path / "main", c * 12, age) for c, age in (("a", 9), ("b", 5)))
    (bad / "metrics.json").unlink()
    shutil.rmtree(bad / "images")
    state = {"status": "failed", "signature": "b" * 12, "error": "bark.wav: silent from 0 to 4 s"}
    write(bad / "status.json", json.dumps(state))
    said = synced(tmp_path / "main", capsys, monkeypatch).splitlines()
    assert said[0] == "2 runs that ended, 0 of them recorded before"
    assert said[1:3] == [f"1/2  {good.name}", f"2/2  {bad.name}"]
    items = [r["history"]["item"] for r in inspected(bad) if r["type"] == "history"]
    assert items[-1]["status"] == "failed" and "silent from 0 to 4 s" in items[-1]["error"]
    assert "2 of them recorded before" in synced(tmp_path / "main", capsys, monkeypatch, code=0)


def synced(folder: Path, capsys, monkeypatch, *more: str, code: int = 0) -> str:
    assert sync_wandb.main([str(folder), "--mode", "offline", *more]) == code
    return capsys.readouterr().out


def test_what_is_made_again_is_sent_again(example, tmp_path):
    folder = copied(example, tmp_path, "e" * 12)
    write_mark = {"mode": "online", "of": wandb_worker.digest(folder)}
    (folder / "wandb").mkdir()
    write(folder / wandb_worker.MARK, json.dumps(write_mark))
    assert wandb_worker.mirrored(folder, "online") and wandb_worker.mirrored(folder, "offline")
    write(folder / "metrics.json", "{}")
    assert not wandb_worker.mirrored(folder, "online")


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match=r"logger\.mode=sometimes"):
        build({"_target_": "acgd.loggers.wandb.WandB", "mode": "sometimes"})


def test_an_agent_of_wandb_gives_the_first_run_its_id(monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "from-agent")
    assert [wandb_worker.identity("a"), wandb_worker.identity("b")] == ["from-agent", "b"]
    assert "WANDB_SWEEP_ID" not in os.environ


def test_an_agents_command_is_one_that_composes():
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((ROOT / "scripts" / "wandb_sweep.yaml").read_text())
    known = {"value", "min", "max", "distribution"}
    assert all(set(one) <= known for one in sweep["parameters"].values())
    drawn = {key: {"value": one.get("value", 0.5)} for key, one in sweep["parameters"].items()}
    words = create_sweep_command_args({"args": drawn})["args_no_hyphens"]
    command = create_sweep_command(list(sweep["command"]))
    assert (ROOT / sweep["program"]).is_file()
    given = [word for word in command if not word.startswith("$")] + words
    cfg = resolve(compose(*map(quoted, given)))
    assert cfg["prompt"]["text_share"] == 0.5 and cfg["logger"]["mode"] == "online"
    assert sweep["metric"]["name"] in wandb_worker.plot_names(
        {"picture": {"judge": {"image_audio": 0.5}}}
    )
