"""A few kills of the many that scripts/torture.py is for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, command

from acgd.commands import run as cli
from acgd.commands import signals

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.process
@pytest.mark.slow
def test_a_few_kills_lose_nothing(tiny, tmp_path):
    small = [one for one in tiny if one.startswith(("model.", "encoder.", "judge."))]
    small += ["sampler=plms", "sampler.steps=3", "guidance.clip=300", "seed=0,1,2", "twin=false"]
    torture = [sys.executable, str(ROOT / "scripts" / "torture.py"), "4", "--no-ends"]
    torture += ["--disks", "1", "--power", "1", "--damaged", "1"]
    done = subprocess.run(
        [*torture, "--keep", str(tmp_path), *small],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("kills ") and int(lines[0].split()[1].rstrip(":")) >= 4
    assert lines[2:6] == [
        "torn files 0",
        "lost runs 0",
        "differing pictures 0",
        "other faults 0",
    ]
    assert lines[-2].startswith("power losses 1 (") and lines[-1].endswith("wrongly made before 0")


def test_an_interruption_is_known_behind_what_others_make_of_it():
    try:
        try:
            raise signals.Terminated
        except BaseException:
            raise ValueError from None
    except ValueError as error:
        assert isinstance(cli.interruption(error), signals.Terminated)
    assert cli.interruption(ValueError()) is None


@pytest.mark.process
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143)])
def test_a_scheduler_s_signal_is_an_interruption(tiny, tmp_path, name, code):
    words = ["prompt=text", "prompt.text=snow", "logger=none", "sampler.steps=900"]
    made = subprocess.Popen(
        command(*tiny, *words, "preview_every=1", "snapshot_every=0"),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 100
    while not list(tmp_path.rglob("step_0003.png")) and time.monotonic() < end:
        time.sleep(0.05)
    made.send_signal(getattr(signal, name))
    _, said = made.communicate(timeout=60)
    assert made.returncode == code, said
    assert said.splitlines()[-1].startswith("acgd: interrupted")
    (run,) = tmp_path.glob("outputs/main/*-seed0-*")
    assert '"interrupted"' in (run / "status.json").read_text()
    assert (run / "snapshot.pt").is_file()  # of the step that it stood at


@pytest.mark.process
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_is_one_line_at_any_moment(tiny, tmp_path, name, code):
    """From the moment that our own first line runs until the process is gone."""
    words = ["prompt=text", "prompt.text=snow", "logger=none", "prompt.text=a dog", *tiny]
    seen = []
    for wait in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.2, 1.6, 2.2):
        started, here = os.pipe()
        lines = "import os; from acgd.commands import signals; signals.at_once(); "
        lines += f"os.write({here}, b'x'); from acgd.__main__ import main; main()"
        call = [sys.executable, "-c", lines, f"name=after{wait}", *words]
        made = subprocess.Popen(
            call,
            cwd=tmp_path,
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[here],
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.read(started, 1)
        time.sleep(wait)
        made.send_signal(getattr(signal, name))
        _, said = made.communicate(timeout=100)
        lines = [
            line for line in said.replace("\r", "\n").splitlines() if line.startswith("acgd: ")
        ]
        seen.append(made.returncode)
        assert "Traceback" not in said and "ignored" not in said, said
        assert made.returncode in (code, 0), said
        if made.returncode:
            assert lines[-1] == f"acgd: {signals.SAID}" and len(lines) == 1
        os.close(started), os.close(here)
    assert seen.count(code) >= 5
