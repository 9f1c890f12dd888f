"""What samples left on disk, read back and compared."""

import json
import time

from omegaconf import OmegaConf

from acgd import collect

CONFIG = {
    "sampler": {"_target_": "acgd.samplers.ddpm.DDPM", "steps": "40"},
    "guidance": {"clip": 1000.0, "clamp": 1e-05, "schedule": {"_target_": "a.Constant"}},
    "prompt": {"path": "demo:dog", "text": ["a dog:\n 2", "no: 12:30"]},
    "seed": 0,
    "concept": None,
    "twin": False,
}


def make(home, label, seed, similarity=0.3, status="ok", **config):
    """A run's folder as the runner leaves it; returns its name."""
    cfg = OmegaConf.to_container(OmegaConf.merge(CONFIG, {"seed": seed}, config))
    name = f"{label}-seed{seed}-{abs(hash(str(cfg))) % 16**12:012x}"
    folder = home / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(cfg)))
    told = {"status": status, "signature": name.split("-")[-1], "seconds": 2.5}
    (folder / "status.json").write_text(json.dumps(told))
    if status == "ok":
        scores = {"similarity": similarity, "rank": 2, "of": 82, "names": [["dog", 0.9]]}
        metrics = {"label": label, "seed": seed, "caption": "a dog", "words": ["barking"]}
        metrics |= {"picture": {"judge": scores}, "twin": {"judge": {"similarity": 0.1}}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return name


def job(sweep, number, runs, *overrides, **told):
    folder = sweep / str(number)
    folder.mkdir(parents=True)
    told = {"status": "ok", "overrides": list(overrides), "runs": runs, **told}
    (folder / "status.json").write_text(json.dumps(told))


def test_a_run_is_read_flat(tmp_path):
    record = collect.read(tmp_path / make(tmp_path, "dog", 3))[0]
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
    dog, cat = sorted(collect.read(tmp_path), key=lambda record: record["seed"])
    assert (dog["status"], dog["config"], dog["scores"]) == ("ok", {}, {"seconds": 2.5})
    assert (cat["status"], cat["label"], cat["seed"]) == ("absent", "cat", 7)
    assert collect.read(tmp_path / "nowhere") == []


def test_a_sweep_is_its_jobs_runs_and_its_failed_jobs(tmp_path):
    runs = [make(tmp_path, "dog", 0, guidance={"clip": clip}) for clip in (500.0, 1000.0)]
    make(tmp_path, "cat", 5)  # another command's
    sweep = tmp_path / "sweeps" / "2026-01-01"
    for number in range(11):
        mine = runs[:1] if number == 2 else runs[1:] if number == 10 else []
        told = {} if mine else {"status": "failed", "error": "no such file"}
        job(sweep, number, mine, f"guidance.clip={number}", **told)
    records = collect.read(sweep)
    assert len(records) == 11
    assert [records[2]["label"], records[10]["label"]] == ["dog", "dog"]
    assert records[0]["folder"] is None and records[0]["error"] == "no such file"
    assert collect.varied(records) == ["guidance.clip"]
    assert len(collect.read(sweep / "2")) == 1
    everything = {record["folder"].name: record for record in collect.read(tmp_path)}
    assert len(everything) == 3 and everything[runs[0]]["overrides"] == ["guidance.clip=2"]


def test_what_varied_is_told_by_group_where_the_class_changes(tmp_path):
    for target, steps in (("a.DDPM", "40"), ("a.DDIM", "20")):
        for clip in (500.0, 1000.0):
            sampler = {"_target_": target, "steps": steps}
            make(tmp_path, "dog", 0, sampler=sampler, guidance={"clip": clip})
    assert collect.varied(collect.read(tmp_path)) == ["sampler", "guidance.clip"]


def test_two_thousand_folders_are_read_quickly(tmp_path):
    cfg = OmegaConf.to_yaml(OmegaConf.create({f"part{i}": CONFIG for i in range(4)}))
    for i in range(2000):
        folder = tmp_path / f"dog-seed{i}-0123456789ab"
        folder.mkdir()
        (folder / "config.yaml").write_text(f"{cfg}seed: {i}\n")
        (folder / "status.json").write_text('{"status": "ok"}')
        (folder / "metrics.json").write_text('{"picture": {"judge": {"similarity": 0.5}}}')
    began = time.process_time()
    assert len(collect.read(tmp_path)) == 2000
    assert time.process_time() - began < 2
