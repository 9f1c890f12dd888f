"""What samples left on disk, read back and compared; numbers by hand or against scipy's."""

import csv
import itertools
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from omegaconf import OmegaConf
from scipy import stats

from acgd.errors import UserError
from acgd.evaluation import compare, tables
from acgd.evaluation.metrics import embeddings, retrieval, spread
from acgd.evaluation.pairing import arrange
from acgd.evaluation.statistics import holm, interval, paired_p
from acgd.runs import records as run_records

CONFIG = {
    "sampler": {"_target_": "acgd.diffusion.samplers.ddpm.DDPM", "steps": "40"},
    "guidance": {"clip": 1000.0, "clamp": 1e-05, "schedule": {"_target_": "a.Constant"}},
    "prompt": {"path": "demo:dog", "text": ["a dog:\n 2", "no: 12:30"]},
    "seed": 0,
    "concept": None,
    "twin": False,
}


def make(home, label, seed, similarity=0.3, status="ok", embeds=None, rank=2, **config):
    """A run's folder as the runner leaves it; returns its name."""
    own = {"seed": seed, "prompt": {"path": f"demo:{label}"}}
    cfg = OmegaConf.to_container(OmegaConf.merge(CONFIG, own, config))
    name = f"{label}-seed{seed}-{abs(hash(str(cfg))) % 16**12:012x}"
    folder = home / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(cfg)))
    told = {"status": status, "signature": name.split("-")[-1], "seconds": 2.5}
    (folder / "status.json").write_text(json.dumps(told))
    if status == "ok":
        scores = {"similarity": similarity, "rank": rank, "of": 82, "names": [["dog", 0.9]]}
        metrics = {"label": label, "seed": seed, "caption": "a dog", "words": ["barking"]}
        metrics |= {"picture": {"judge": scores}, "twin": {"judge": {"similarity": 0.1}}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        if embeds is not None:
            (folder / "embeddings.json").write_text(json.dumps({"judge": embeds}))
    return name


def job(sweep, number, runs, *overrides, **told):
    folder = sweep / str(number)
    folder.mkdir(parents=True)
    told = {"status": "ok", "overrides": list(overrides), "runs": runs, **told}
    (folder / "status.json").write_text(json.dumps(told))


def test_a_run_is_read_flat(tmp_path):
    record = run_records.read(tmp_path / make(tmp_path, "dog", 3))[0]
    assert (record["label"], record["seed"], record["status"]) == ("dog", 3, "ok")
    assert record["scores"]["judge.similarity"] == 0.3
    assert record["scores"]["twin.judge.similarity"] == 0.1
    assert record["scores"]["seconds"] == record["seconds"] == 2.5
    assert record["config"]["guidance.clamp"] == 1e-05
    assert record["config"]["sampler.steps"] == "40"
    assert record["config"]["prompt.text"] == ["a dog:\n 2", "no: 12:30"]
    assert record["words"] == ["barking"]


def test_torn_files_never_raise(tmp_path):
    name = make(tmp_path, "dog", 0)
    (tmp_path / name / "metrics.json").write_text('{"label": "do')
    (tmp_path / name / "config.yaml").write_text("a: [1,\nb: }")
    (tmp_path / name / "targets.json").write_text("[]")
    (tmp_path / "cat-seed7-0123456789ab").mkdir()
    dog, cat = sorted(run_records.read(tmp_path), key=lambda record: record["seed"])
    assert (dog["status"], dog["config"], dog["scores"]) == ("ok", {}, {"seconds": 2.5})
    assert (cat["status"], cat["label"], cat["seed"]) == ("absent", "cat", 7)
    assert run_records.read(tmp_path / "nowhere") == []


def test_a_sweep_is_its_jobs_runs_and_its_failed_jobs(tmp_path):
    runs = [make(tmp_path, "dog", 0, guidance={"clip": clip}) for clip in (500.0, 1000.0)]
    make(tmp_path, "cat", 5)  # another command's
    sweep = tmp_path / "sweeps" / "2026-01-01"
    for number in range(11):
        mine = runs[:1] if number == 2 else runs[1:] if number == 10 else []
        told = {} if mine else {"status": "failed", "error": "no such file"}
        job(sweep, number, mine, f"guidance.clip={number}", **told)
    records = run_records.read(sweep)
    assert len(records) == 11
    assert [records[2]["label"], records[10]["label"]] == ["dog", "dog"]
    assert records[0]["folder"] is None and records[0]["error"] == "no such file"
    assert run_records.varied(records) == ["guidance.clip"]
    assert len(run_records.read(sweep / "2")) == 1
    everything = {record["folder"].name: record for record in run_records.read(tmp_path)}
    assert len(everything) == 3 and everything[runs[0]]["overrides"] == ["guidance.clip=2"]


def test_what_varied_is_told_by_group_where_the_class_changes(tmp_path):
    for target, steps in (("a.DDPM", "40"), ("a.DDIM", "20")):
        for clip in (500.0, 1000.0):
            sampler = {"_target_": target, "steps": steps}
            make(tmp_path, "dog", 0, sampler=sampler, guidance={"clip": clip})
    assert run_records.varied(run_records.read(tmp_path)) == ["sampler", "guidance.clip"]


def test_two_thousand_folders_are_read_quickly(tmp_path):
    cfg = OmegaConf.to_yaml(OmegaConf.create({f"part{i}": CONFIG for i in range(4)}))
    for i in range(2000):
        folder = tmp_path / f"dog-seed{i}-0123456789ab"
        folder.mkdir()
        (folder / "config.yaml").write_text(f"{cfg}seed: {i}\n")
        (folder / "status.json").write_text('{"status": "ok"}')
        (folder / "metrics.json").write_text('{"picture": {"judge": {"similarity": 0.5}}}')
    began = time.process_time()
    assert len(run_records.read(tmp_path)) == 2000
    assert time.process_time() - began < 4  # 1.1 where nothing else runs


def test_values_are_what_would_be_typed(tmp_path):
    runs = [make(tmp_path, "dog", 0, guidance={"clip": clip}) for clip in (500.0, 1000.0)]
    for number, (run, name) in enumerate(zip(runs, ("ddpm", "renoise"), strict=True)):
        job(
            tmp_path / "sweeps" / "a", number, [run], f"sampler={name}", f"guidance.clip=1e{number}"
        )
    records = run_records.read(tmp_path / "sweeps" / "a")
    assert run_records.values(records, "guidance.clip") == ["500", "1000"]
    assert run_records.values(records, "sampler") == ["ddpm", "renoise"]
    assert run_records.values(records, "concept") == ["null", "null"]
    assert run_records.values(records, "guidance.nope") == [None, None]
    records[0]["overrides"] = []
    assert run_records.values(records, "sampler") == ["DDPM", "DDPM"]


def test_an_interval_is_scipy_s_bootstrap():
    values = [0.1, 0.4, 0.35, 0.8, 0.2, 0.22, 0.5]
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=0.95, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert interval(values) == pytest.approx(found)
    assert interval(values) == interval(values)
    assert interval([0.3]) == (None, None) and interval([]) == (None, None)
    assert interval([0.3, 0.3, 0.3]) == (0.3, 0.3)
    shares = [0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]  # of few kinds: no BCa
    drawn = np.random.default_rng(2).choice(shares, (20000, 8)).mean(1)
    assert interval(shares) == pytest.approx(np.quantile(drawn, [0.025, 0.975]))
    low, high = interval([0.0, 1.0])
    assert low == 0 and high == 1
    many = np.random.default_rng(1).normal(size=3000)
    assert interval(many) == pytest.approx(
        stats.norm.interval(0.95, many.mean(), 3000**-0.5), abs=5e-3
    )


def test_a_p_value_counts_the_signs_that_say_as_much():
    values = [0.3, -0.1, 0.25, 0.4, 0.05, -0.02]
    ways = [
        abs(np.mean(np.multiply(signs, values))) for signs in itertools.product((1, -1), repeat=6)
    ]
    by_hand = np.mean([way >= abs(np.mean(values)) - 1e-12 for way in ways])
    assert paired_p(values) == pytest.approx(by_hand)
    assert paired_p([0.1, 0.2, 0.3]) == pytest.approx(2 / 8)
    assert paired_p([0.0, 0.0]) == 1 and paired_p([0.5]) is None
    assert paired_p(np.linspace(0.1, 1, 30)) < 0.001


def test_holm_by_hand():
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


@pytest.fixture
def sweep(tmp_path):
    """Two strengths over three sounds and two seeds; one picture failed, one job had none."""
    home, runs = tmp_path / "main", []
    angles = {"dog": 0.0, "cat": 1.0, "owl": 2.0}  # of the sounds, in radians
    for clip in (500.0, 1000.0):
        own = []
        for k, (label, angle) in enumerate(angles.items()):
            for seed in (0, 1):
                broken = (clip, label, seed) == (1000.0, "owl", 1)
                near = angle + (0.1 if seed else 0.7) * (1 if clip == 500 else 0.5)
                own.append(
                    make(
                        home,
                        label,
                        seed,
                        similarity=0.2 + 0.1 * k + (0.01 * (k + 1) if clip == 1000 else 0.0),
                        status="failed" if broken else "ok",
                        rank=1 if seed else 7,
                        embeds={"image": point(near), "audio": point(angle)},
                        guidance={"clip": clip},
                    )
                )
        runs.append(own)
    folder = home / "sweeps" / "one"
    job(folder, 0, runs[0], "guidance.clip=500")
    job(folder, 1, runs[1], "guidance.clip=1000", status="failed")
    job(folder, 2, [], "guidance.clip=2000", status="failed", error="no such file")
    return folder


def point(angle):
    return [float(np.cos(angle)), float(np.sin(angle))]


def row(rows, metric, **known):
    (found,) = [one for one in rows if one["metric"] == metric and known.items() <= one.items()]
    return found


def test_a_table_has_means_chances_and_failures(sweep):
    rows = compare.table(run_records.read(sweep))
    weak, strong, none = (
        row(rows, "similarity", **{"guidance.clip": c}) for c in ("500", "1000", "2000")
    )
    assert (weak["n"], weak["samples"], weak["failed"]) == (6, 6, 0)
    assert (strong["n"], strong["samples"], strong["failed"]) == (5, 6, 1)
    assert (none["n"], none["samples"], none["failed"], none["mean"]) == (0, 1, 1, None)
    assert weak["mean"] == pytest.approx(0.3)
    assert (weak["low"], weak["high"]) == pytest.approx(
        interval([0.2 + 0.1 * (k // 2) for k in range(6)])
    )
    first = row(rows, "first", **{"guidance.clip": "500"})
    assert (first["mean"], first["better"]) == (0.5, "higher")
    assert first["chance"] == pytest.approx(1 / 82)
    seconds = row(rows, "seconds", **{"guidance.clip": "500"})
    assert (seconds["better"], seconds["low"]) == ("lower", None)  # a batch's pictures share them
    several = compare.pairs(run_records.read(sweep), metrics=["seconds"])
    assert several[0]["difference"] == 0 and several[0]["p"] is several[0]["low"] is None


def test_pairs_share_sound_and_seed(sweep):
    records = run_records.read(sweep)
    found = row(compare.pairs(records, metrics=["similarity"]), "similarity", b="1000")
    assert (found["a"], found["n"], found["unpaired_a"], found["unpaired_b"]) == ("500", 5, 1, 0)
    differences = [0.01, 0.01, 0.02, 0.02, 0.03]
    assert found["difference"] == pytest.approx(np.mean(differences))
    assert found["p"] == pytest.approx(2 / 2**5)
    assert (found["low"], found["high"]) == pytest.approx(interval(differences), abs=1e-6)
    turned = compare.pairs(records, metrics=["similarity"], against="1000")
    assert row(turned, "similarity", b="500")["difference"] == pytest.approx(-np.mean(differences))
    everyone = compare.pairs(records, metrics=["similarity"], against="all")
    assert [(one["a"], one["b"]) for one in everyone] == [
        ("500", "1000"),
        ("500", "2000"),
        ("1000", "2000"),
    ]


def test_what_else_varied_must_be_the_same_in_a_pair(tmp_path):
    for clip, steps in itertools.product((500.0, 1000.0), ("10", "20")):
        score = 0.1 * int(steps) + clip / 1e4
        make(tmp_path, "dog", 0, score, guidance={"clip": clip}, sampler={"steps": steps})
    (found,) = compare.pairs(run_records.read(tmp_path), ["guidance.clip"], ["similarity"])
    assert found["n"] == 2 and found["difference"] == pytest.approx(0.05)
    (seeds,) = compare.table(run_records.read(tmp_path), ["seed"], ["similarity"])
    assert seeds["n"] == 4 and seeds["seed"] == "0"


def test_retrieval_by_hand(sweep):
    # seed 0 of clip 500 lies 0.7 beyond its sound: nearer to the next one, but for the last sound
    records = run_records.read(sweep)
    found = retrieval(records, embeddings(records))
    ranks = [found[i]["retrieval"] for i in range(6)]
    assert ranks == [2, 1, 2, 1, 1, 1]
    assert {one["sounds"] for one in found.values()} == {3}
    rows = compare.table(records, metrics=["retrieval", "retrieved"])
    rank, share = (
        row(rows, name, **{"guidance.clip": "500"}) for name in ("retrieval", "retrieved")
    )
    assert rank["mean"] == pytest.approx(8 / 6) and rank["chance"] == 2
    assert share["mean"] == pytest.approx(4 / 6) and share["chance"] == pytest.approx(1 / 3)


def test_diversity_is_that_of_one_sound_s_seeds(sweep):
    (weak, strong) = compare.table(run_records.read(sweep), metrics=["diversity"])[:2]
    assert weak["mean"] == pytest.approx(1 - np.cos(0.6)) and weak["n"] == 3
    assert strong["mean"] == pytest.approx(1 - np.cos(0.3)) and strong["n"] == 2  # a seed failed
    assert spread([np.array([1, 0]), np.array([0, 1]), np.array([-1, 0])]) == 4 / 3
    with pytest.raises(UserError, match="diversity: it needs two seeds"):
        compare.table(run_records.read(sweep), ["seed"], ["diversity"])


def test_numbers_stand_by_size(tmp_path):
    for clip in (1000.0, 500.0, 20000.0):
        make(tmp_path, "dog", 0, guidance={"clip": clip})
    grid = arrange(run_records.read(tmp_path))
    assert grid.by == ["guidance.clip"]
    assert [grid.label(setting) for setting in grid.settings] == ["500", "1000", "20000"]


def test_a_single_run_and_nothing_at_all(tmp_path):
    make(tmp_path, "dog", 0)
    (found,) = compare.table(run_records.read(tmp_path), metrics=["similarity"])
    assert (found["mean"], found["low"], found["n"]) == (0.3, None, 1)
    assert compare.pairs(run_records.read(tmp_path)) == []
    assert compare.table([]) == [] and compare.pairs([]) == []
    assert compare.write(tmp_path, [])["samples"] == {}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"by": ["guidance.clp"]}, "key guidance.clp .did you mean guidance.clip"),
        ({"by": ["clip"]}, "key clip .did you mean guidance.clip"),
        ({"metrics": ["similarty"]}, "similarty .did you mean similarity"),
        ({"metrics": ["gain"]}, "gain: twin=true makes the twins"),
        ({"against": "501"}, "no setting 501 .did you mean 500"),
    ],
)
def test_mistakes_have_one_line(sweep, asked, says):
    with pytest.raises(UserError, match=says):
        compare.pairs(run_records.read(sweep), **asked)


def script(*arguments, **env):
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "compare", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.process
def test_the_command_prints_and_writes_its_tables(sweep, tmp_path):
    done = script(sweep, "--metrics", "similarity,judge.rank")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("samples: 11 ok, 2 failed")
    (weak,) = [line.split() for line in lines if line.split()[:2] == ["500", "0.300"]]
    assert weak[-1] == "6"
    (strong,) = [line.split() for line in lines if line.split()[:2] == ["1000", "0.298"]]
    assert strong[-3:] == ["1", "of", "6"]
    assert any(line.split()[:2] == ["1000", "+0.018"] for line in lines)
    assert any(line.split()[:3] == ["less", "500", "mean"] for line in lines)
    assert "judge.rank, lower is better" in done.stdout
    with open(sweep / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(row(rows, "similarity", **{"guidance.clip": "500"})["mean"]) == pytest.approx(0.3)
    assert (sweep / "pairs.csv").read_text().startswith("metric,better,a,b,difference")
    told = json.loads((sweep / "compare.json").read_text())
    assert told["by"] == ["guidance.clip"] and told["samples"] == {"ok": 11, "failed": 2}


@pytest.mark.process
def test_the_command_says_what_is_wrong_in_one_line(sweep, tmp_path):
    for arguments, says in (
        ((sweep, "--by", "guidance.clp"), "did you mean guidance.clip"),
        ((tmp_path / "nowhere",), "no runs in here"),
    ):
        done = script(*arguments)
        assert done.returncode == 1 and says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_tables_keep_to_a_hundred_columns(tmp_path):
    for a, b in itertools.product(("a" * 40, "b" * 40), (1000.0, 123456.0)):
        for seed in range(5):
            own = {"guidance": {"clip": b}, "sampler": {"steps": a}}
            make(tmp_path, "dog", seed, 1000 * seed + b, "ok" if seed else "failed", **own)
    records = run_records.read(tmp_path)
    said = tables.text(compare.write(tmp_path, records, ["sampler.steps", "guidance.clip"]))
    assert max(map(len, said.splitlines())) <= 100
    assert re.search(r"steps=a+\.\.a+ clip=123456 ", said) and "less steps=" in said


def test_parquet_where_pyarrow_is_there(sweep):
    parquet = pytest.importorskip("pyarrow.parquet")
    found = compare.write(sweep, run_records.read(sweep))
    assert parquet.read_table(sweep / "compare.parquet").to_pylist() == found["table"]
    assert parquet.read_table(sweep / "pairs.parquet").to_pylist() == found["pairs"]
