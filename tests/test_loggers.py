"""W&B as a mirror: what it records, and that it can't stop or hang a run."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time

import pytest
from conftest import compose

from acgd import config, runner
from acgd.config import build
from acgd.types import UserError


@pytest.fixture
def run(tiny, sounds, tmp_path):
    """A finished run that W&B (offline) was told about."""
    path = f"prompt.path={sounds / 'tone.wav'}"
    cfg = compose(*tiny, path, f"outputs={tmp_path}", "logger=wandb", "logger.timeout=200")
    runs = config.expand(cfg)
    runner.render(runs)
    return runs[0]


def test_an_offline_run_holds_config_losses_picture_and_metrics(run, capfd):
    (folder,) = (run.folder / "wandb").glob("offline-run-*")
    wandb = os.path.join(os.path.dirname(sys.executable), "wandb")
    said = subprocess.run([wandb, "leet", "inspect", "--json", folder], capture_output=True)
    records = [json.loads(line) for line in said.stdout.splitlines()]
    start = next(record["run"] for record in records if record["type"] == "run")
    assert start["run_id"] == run.signature
    assert start["config"]["update"]["guidance"]["clip"] == run.cfg["guidance"]["clip"]
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    rows = list(csv.DictReader((run.folder / "losses.csv").open()))
    recorded = [item["clip"] for item in items if "clip" in item]
    assert recorded == pytest.approx([float(row["clip"]) for row in rows if row["clip"]])
    pictures = [item for item in items if any("caption" in key for key in item)]
    assert pictures and "tone" in json.dumps(pictures)
    assert list((folder / "files/media/images").glob("seed0_*.png"))
    scores = json.loads((run.folder / "metrics.json").read_text())["picture"]["judge"]
    assert str(scores["similarity"]) in json.dumps(records)
    assert not capfd.readouterr().out.count("wandb")


def test_a_hanging_wandb_is_left_behind(tmp_path, monkeypatch, capsys):
    (tmp_path / "wandb.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("acgd.loggers.wandb.environment", lambda: dict(os.environ))
    logger = build({"_target_": "acgd.loggers.wandb.WandB", "timeout": 1})
    logger.begin()
    child, began = logger.child, time.monotonic()
    logger.mirror([tmp_path])
    assert time.monotonic() - began < 30
    assert child.poll() is not None
    assert capsys.readouterr().err.startswith("acgd: W&B: no answer in time")


def test_a_failing_wandb_is_one_line(tmp_path, capsys):
    logger = build({"_target_": "acgd.loggers.wandb.WandB"})
    logger.begin()
    logger.mirror([tmp_path / "not a run"])
    said = capsys.readouterr().err
    assert said.startswith("acgd: W&B: ") and said.count("\n") == 1


def test_nothing_to_mirror_ends_the_child():
    logger = build({"_target_": "acgd.loggers.wandb.WandB"})
    logger.begin()
    child = logger.child
    logger.mirror([])
    assert child.poll() == 0


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match=r"logger\.mode=sometimes"):
        build({"_target_": "acgd.loggers.wandb.WandB", "mode": "sometimes"})
