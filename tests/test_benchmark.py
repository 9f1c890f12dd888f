"""The benchmark's pieces on random tiny models; no figure is held to anything."""

from __future__ import annotations

import subprocess
import sys

import benchmark
import pytest
from conftest import ROOT


def test_a_process_is_measured_with_its_memory():
    # from a small process: a child's peak begins with its parent's
    code = (
        "import sys, benchmark; run = lambda c: benchmark.measure([sys.executable, '-c', c])\n"
        "print(run('pass').megabytes, run(\"b'x' * 200_000_000\").megabytes)"
    )
    said = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT / "scripts", text=True)
    small, large = map(float, said.split())
    assert small < 100 and large > small + 190


def test_a_process_that_fails_ends_the_benchmark_with_its_words():
    with pytest.raises(SystemExit, match="so it goes"):
        benchmark.measure([sys.executable, "-c", "raise ValueError('so it goes')"])
    benchmark.measure([sys.executable, "-c", "raise SystemExit(1)"], succeeds=False)


def test_every_case_of_the_steps_has_a_line(tiny, capsys):
    benchmark.main(["--only", "steps", "--steps", "1", "--rounds", "1", *tiny])
    lines = capsys.readouterr().out.split("\n")
    for case in benchmark.STEPS:
        assert any(line.startswith(f"a step, {case} ") for line in lines), case
    assert lines[0].rstrip().endswith("1.00 x")


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--only", "nothing"])
    assert "choose from main, startup, steps" in capsys.readouterr().err
