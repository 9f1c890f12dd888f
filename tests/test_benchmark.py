"""The benchmark's pieces on random tiny models; no figure is held to anything."""

from __future__ import annotations

import subprocess
import sys

import benchmark
import benchmark_full
import benchmark_quality
import pytest
from conftest import ENCODER, ROOT

from acgd.checkpoints import load as checkpoints
from acgd.models.audioclip import AudioCLIP
from acgd.models.clip import CLIP
from acgd.pipeline import memory, models


@pytest.mark.process
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


def test_every_case_of_the_steps_has_a_line(tiny, capsys, monkeypatch):
    monkeypatch.setattr(models.CACHE, "kept", {})  # models of other layouts have other last bits
    benchmark.main(["--only", "steps", "--steps", "1", "--rounds", "1", *tiny])
    lines = capsys.readouterr().out.split("\n")
    for case in benchmark.STEPS:
        assert any(line.startswith(f"a step, {case} ") for line in lines), case
    assert lines[0].rstrip().endswith("1.00 x")


def test_a_sweep_is_timed_one_by_one_and_in_one_batch(monkeypatch, capsys):
    given = []

    def measure(words):
        given.append(words)
        return benchmark.Figure("", 2.0, 2.0, 100.0)

    monkeypatch.setattr(benchmark, "measure", measure)
    benchmark.main(["--only", "sweep", "seed=0,1"])
    assert [["batch_size=1" in words, "batch_size=8" in words] for words in given] == [
        [True, False],
        [False, True],
    ]
    assert all(words[-1] == "seed=0,1" and "-m" in words for words in given)
    alone, together, _ = capsys.readouterr().out.split("\n", 2)
    assert alone.startswith("eight jobs, one by one ") and alone.rstrip().endswith("1.00 x")
    assert together.startswith("eight jobs, in one batch ")


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--only", "nothing"])
    assert "choose from main, startup, steps, sweep" in capsys.readouterr().err


SMALL = {  # the notebook's models with everything but their sizes
    "model": {
        "num_channels": 32,
        "num_head_channels": 32,
        "image_size": 32,
        "num_res_blocks": 1,
        "channel_mult": "1,2",
    },
    "encoder": {key: ENCODER[key] for key in ENCODER if key.startswith("audio_")},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_full_configuration_runs_without_files(monkeypatch, precision):
    """On small shapes; what the stand-ins replace is put back afterwards."""
    for module, names in (
        (checkpoints, ("locate", "load_into", "read_config", "load_state")),
        (memory, ("check",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(models.CACHE, "kept", {})
    clip = {key: value for key, value in ENCODER.items() if key not in SMALL["encoder"]}
    del clip["sample_rate"]
    monkeypatch.setattr(
        benchmark_full, "audioclip", lambda: benchmark_full.shapes(AudioCLIP, ENCODER)
    )
    monkeypatch.setattr(benchmark_full, "rn50", lambda: benchmark_full.shapes(CLIP, clip))
    small = [f"++{g}.{k}={v!r}" for g, own in SMALL.items() for k, v in own.items()]
    found = benchmark_full.run(
        [*benchmark_full.NOTEBOOK, "device=cpu", f"precision={precision}", *small], 1, 2
    )
    assert len(found["seconds"]) == 2 and found["estimate"] > 0
    said = benchmark_full.line("float32", {**found, "process": 5.5e9})
    assert "s a step" in said and "peak  5.50 GB" in said


def test_what_a_second_buys_is_a_line_for_each_setting(capsys):
    cases = "dpmpp, 6 steps;as configured"
    own = ["sampler.steps=2", "guidance.num_cutouts=1"]
    benchmark.main(["quality", "--names", "2", "--only", cases, *own])
    *_, head, quick, configured = capsys.readouterr().out.rstrip().split("\n")
    assert head.endswith("against dpmpp, 6 steps")
    assert {line.split("  ")[0] for line in (quick, configured)} == set(cases.split(";"))


def test_the_best_settings_have_a_star_and_differences_are_paired():
    found = [
        benchmark_quality.Found("slow", 4.0, [0.5, 0.7], 1.0),
        benchmark_quality.Found("beaten", 5.0, [0.4, 0.6], 1.0),
        benchmark_quality.Found("quick", 1.0, [0.4, 0.5], 0.5),
    ]
    _, quick, slow, beaten = benchmark_quality.table(found)
    assert [line.endswith("*") for line in (quick, slow, beaten)] == [True, True, False]
    assert "-0.100 (-0.100 to -0.100)" in beaten  # both a tenth lower: no doubt
    assert "0.250" in quick  # of the first one's seconds


def test_an_unknown_setting_is_named(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["quality", "--only", "faster"])
    assert "unknown case 'faster': choose from the notebook's way; " in capsys.readouterr().err
