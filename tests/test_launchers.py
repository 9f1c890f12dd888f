"""Sweeps in other processes, as typed. Those on clusters are slow and start daemons on loopback:

ACGD_CLUSTERS=1 python -m pytest tests/test_launchers.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT, command
from omegaconf import OmegaConf

from acgd.config.explain import explain
from acgd.runs import folder as folders
from acgd.sweep.launchers import gpus, ray, submitit
from acgd.sweep.launchers.base import Elsewhere, Lost
from acgd.sweep.launchers.joblib import Joblib

clusters = pytest.mark.skipif("ACGD_CLUSTERS" not in os.environ, reason="ACGD_CLUSTERS=1 asks")
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
SLOW = ("sampler.steps=400", "snapshot_every=3", "preview_every=0", "logger=none", "report=false")


def needs(module: str):
    found = find_spec("hydra_plugins") and find_spec(f"hydra_plugins.{module}")
    return pytest.mark.skipif(not found, reason=f"{module} is not installed")


def started(cwd: Path, *words: str, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(*words, "-m"),
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def finished(process: subprocess.Popen, code: int) -> str:
    said, _ = process.communicate(timeout=400)
    assert process.returncode == code, said
    return said


def jobs(cwd: Path) -> list[dict]:
    """status.json of the newest sweep's jobs."""
    newest = sorted((cwd / "outputs/main/sweeps").iterdir())[-1]
    found = sorted(newest.glob("*/status.json"), key=lambda path: int(path.parent.name))
    return [json.loads(path.read_text()) for path in found]


def until(there: Callable[[], object], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)


def snapshots(cwd: Path, count: int) -> Callable[[], bool]:
    return lambda: len(list((cwd / "outputs/main").glob("*/snapshot.pt"))) >= count


def went_on(cwd: Path) -> int:
    """How many runs went on from a snapshot."""
    logs = (cwd / "outputs/main").glob("*/log.txt")
    return sum("resumes after" in log.read_text() for log in logs)


@pytest.mark.process
@pytest.mark.slow
@needs("hydra_joblib_launcher")
def test_joblib_works_from_any_folder_and_goes_on_after_failures(tmp_path, tiny, sounds):
    (sounds / "broken.wav").write_bytes(b"RIFF")
    shutil.copy(sounds / "hiss.wav", sounds / "twin.wav")
    names = ",".join(f"sounds/{name}.wav" for name in ("hiss", "broken", "tone", "twin"))
    words = (f"prompt.path={names}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    said = finished(started(tmp_path, *tiny, *words, "logger=none", "report=false"), 1)
    assert [job["status"] for job in jobs(tmp_path)] == ["ok", "failed", "ok", "ok"]
    assert "3 of 4 jobs ok" in said and "broken.wav" in said
    assert "sounds/twin.wav has the same content as sounds/hiss.wav: the same picture twice" in said
    assert "Traceback" in jobs(tmp_path)[1]["traceback"]
    assert len(list((tmp_path / "outputs/main").glob("*/images/seed0.png"))) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "sounds"}


@pytest.mark.process
@pytest.mark.slow
@needs("hydra_submitit_launcher")
def test_a_process_of_submitit_that_is_killed_is_one_lost_job(tmp_path, tiny, sounds):
    words = [*tiny, *SLOW, "guidance.clip=500,600", "prompt.path=sounds/tone.wav"]
    words += ["hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1"]
    process = started(tmp_path, *words)
    until(snapshots(tmp_path, 1))
    kill_one(f"submitit.core._submit {tmp_path}")
    said = finished(process, 1)
    assert sorted(job["status"] for job in jobs(tmp_path)) == ["failed", "ok"]
    assert "its process was lost" in said and "1 of 2 jobs ok" in said
    finished(started(tmp_path, *words), 0)
    assert [job["status"] for job in jobs(tmp_path)] == ["ok", "ok"]


def kill_one(pattern: str) -> None:
    """SIGKILL to the last process whose command line is like that."""
    rows = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True).stdout
    found = [row for row in rows.splitlines() if re.search(pattern, row)]
    os.kill(int(found[-1].split()[0]), signal.SIGKILL)


class Fake(Elsewhere):
    """Its first job returns a value, its second's process is lost, its third raises."""

    def spread(self, jobs):
        self.write(0, {"status": "ok", "overrides": jobs[0]})
        yield 0, 0.5
        self.write(1, {"status": "running", "overrides": jobs[1], "runs": ["dog"]})
        yield 1, Lost("its process was lost")
        yield 2, ValueError("a fault")


def test_lost_jobs_are_written_down_and_the_rest_is_told(tmp_path, capsys):
    launcher = Fake()
    config = OmegaConf.create({"device": "auto", "hydra": {"sweep": {"dir": str(tmp_path)}}})
    launcher.setup(hydra_context=None, task_function=None, config=config)
    ended = launcher.launch([["a=1", "c=1"], ["a=2", "c=1"], ["a=3", "c=1"]], 0)
    assert ended[0].return_value == 0.5
    assert [job.return_value for job in ended[1:]] == [None, None]
    found = [folders.state(tmp_path / number) for number in "012"]
    assert [job["status"] for job in found] == ["ok", "failed", "failed"]
    assert found[1]["error"] == "its process was lost" and found[1]["runs"] == ["dog"]
    assert "ValueError: a fault" in found[2]["traceback"]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "acgd: job 1, a=2: its process was lost" and len(said) == 2


def claimed(folder: Path, count: int) -> tuple[int, str | None]:
    """In a worker process: claim a GPU and keep it until `count` processes have claimed one."""
    mine = gpus.claim(["3", "GPU-7f-00"], folder)
    until(lambda: len(list(folder.iterdir())) >= count, 60)
    return os.getpid(), mine


@pytest.mark.process
def test_processes_share_the_gpus_evenly(tmp_path):
    joblib = pytest.importorskip("joblib")
    work = joblib.Parallel(n_jobs=4, backend="loky")
    taken = dict(work(joblib.delayed(claimed)(tmp_path / "gpus", 4) for _ in range(4)))
    assert sorted(taken.values()) == ["3", "3", "GPU-7f-00", "GPU-7f-00"]
    again = dict(work(joblib.delayed(claimed)(tmp_path / "gpus", 4) for _ in range(4)))
    assert all(taken[process] == gpu for process, gpu in again.items())  # each keeps its own


def test_without_gpus_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus.claim([], tmp_path / "gpus") is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ and not (tmp_path / "gpus").exists()


@pytest.mark.parametrize(
    ("named", "seen"), [("2,GPU-7f", ["2", "GPU-7f"]), (None, ["0", "1"]), ("5,6,7", ["5", "6"])]
)
def test_gpus_have_the_names_that_cuda_gives_them(named, seen, monkeypatch):
    monkeypatch.setattr(gpus, "DRIVERS", ["/dev/null"])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert gpus.visible() == seen


def opened(launcher: type[Elsewhere], device: str, monkeypatch, **options) -> Elsewhere:
    """A launcher that is ready, on a machine with two GPUs."""
    monkeypatch.setattr(gpus, "visible", lambda: ["0", "1"])
    made = launcher(**options)
    config = OmegaConf.create({"device": device, "hydra": {"sweep": {"dir": "sweep"}}})
    made.setup(hydra_context=None, task_function=None, config=config)
    made.open()
    return made


@pytest.mark.parametrize(
    ("device", "asked", "jobs", "claims"),
    [("auto", -1, 2, ["0", "1"]), ("cuda", 6, 6, ["0", "1"]), ("cpu", -1, -1, []),
     ("cuda:1", -1, -1, [])],
)  # fmt: skip
def test_joblib_has_a_process_for_each_gpu(device, asked, jobs, claims, monkeypatch):
    made = opened(Joblib, device, monkeypatch, n_jobs=asked)
    assert (made.options["n_jobs"], made.work.gpus) == (jobs, claims)


@pytest.mark.parametrize(
    ("gres", "asked", "given", "told"),
    [
        ("gpu:a100:4(S:0-1)", None, 1, ""),
        ("(null)", None, None, ""),
        ("gpu:4", 2, 2, ""),
        ("gpu:4", 0, 0, "jobs get none of this cluster's GPUs: hydra.launcher.gpus_per_node=0"),
    ],
)  # fmt: skip
def test_slurm_is_asked_for_a_gpu_where_it_has_any(
    gres, asked, given, told, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("submitit")
    (tmp_path / "sinfo").write_text(f"#!/bin/sh\n[ $3 = --partition=big ] && echo '{gres}'\n")
    for name in ("sinfo", "srun", "sbatch"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    own = {"gpus_per_node": asked, "partition": "big", "submitit_folder": str(tmp_path / "s")}
    made = opened(submitit.Slurm, "auto", monkeypatch, **own)
    assert made.executor._executor.parameters.get("gpus_per_node") == given
    said = capsys.readouterr().err
    assert told in said and bool(said) == bool(told)


@pytest.mark.parametrize(
    ("there", "asked", "given", "told"),
    [(4.0, None, 1, 0), (0.0, None, None, 0), (4.0, 0.5, 0.5, 0), (4.0, 0, 0, 1)],
)
def test_ray_is_asked_for_a_gpu_where_it_has_any(there, asked, given, told, monkeypatch, capsys):
    cluster = types.SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0, "GPU": there})
    monkeypatch.setitem(sys.modules, "ray", cluster)
    monkeypatch.setattr(ray.Ray, "open", lambda self: None)
    made = opened(ray.Ray, "cuda", monkeypatch, ray={"remote": {"num_gpus": asked}})
    assert made.takes().get("num_gpus") == given
    assert capsys.readouterr().err.count("jobs get none of this cluster's GPUs") == told


def test_slurms_queue_says_which_jobs_are_left(tmp_path, monkeypatch, capsys):
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\nprintf "7_0|RUNNING|None\\n7_1|PENDING|PartitionConfig\\n"\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    launcher = submitit.Slurm()
    assert launcher.there([]) == launcher.there([]) == {"7_0", "7_1"}
    assert capsys.readouterr().err == "acgd: Slurm lets jobs wait: PartitionConfig\n"
    squeue.write_text("#!/bin/sh\nexit 1\n")
    assert launcher.there([]) is None  # nothing is known: nothing is lost


def test_an_address_without_a_cluster_is_found_out():
    assert not ray.answers("127.0.0.1:1")
    assert not ray.answers("nonsense")


@pytest.mark.parametrize(
    ("choice", "module", "extra"),
    [
        ("launcher=joblib", "joblib_launcher", "joblib"),
        ("launcher=submitit_local", "submitit_launcher", "slurm"),
        ("launcher=cluster_slurm", "submitit_launcher", "slurm"),
        ("launcher=cluster_ray", "ray_launcher", "ray"),
        ("sweeper=optuna", "optuna_sweeper", "optuna"),
    ],
)
def test_presets_compose_or_name_the_extra_they_need(choice, module, extra):
    import hydra
    from hydra.errors import HydraException

    from acgd.paths import CONF

    installed = find_spec("hydra_plugins") and find_spec(f"hydra_plugins.hydra_{module}")
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra.compose("config", [f"hydra/{choice}"], return_hydra_config=True)
    except HydraException as error:
        assert not installed
        assert explain(error).endswith(f'is not installed: pip install -e ".[{extra}]"')
    else:
        assert installed and cfg.hydra[choice.split("=")[0]]._target_.startswith("hydra_plugins.")


@pytest.mark.process
@pytest.mark.slow
@needs("hydra_optuna_sweeper")
def test_a_search_goes_on_where_the_last_one_ended(tmp_path, tiny, sounds):
    words = [*tiny, "experiment=search", "prompt.path=sounds/tone.wav", "seed=0", "logger=none"]
    words += ["report=false", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2"]
    for trials in (2, 4):
        process = started(tmp_path, *words)
        said = finished(process, 0)
        assert re.search(r"^best +\S+ +guidance.clip=\S+ guidance.tv=", said, re.M), said
        import sqlite3

        study = sqlite3.connect(tmp_path / "outputs/search/study.db")
        assert study.execute("select count(*) from trial_values").fetchone() == (trials,)


@pytest.mark.process
@pytest.mark.slow
@clusters
@needs("hydra_submitit_launcher")
@pytest.mark.skipif(not shutil.which("slurmctld", path=PATH), reason="no Slurm here")
def test_a_cancelled_job_of_slurm_is_told_and_made_by_the_same_command(tmp_path, tiny, sounds):
    here = [sys.executable, str(ROOT / "scripts/cluster/slurm_here.py")]
    subprocess.run([*here, "start", str(tmp_path / "slurm")], check=True, timeout=100)
    conf = {"SLURM_CONF": str(tmp_path / "slurm/slurm.conf")}
    try:
        words = [*tiny, *SLOW, "guidance.clip=500,600,700", "prompt.path=sounds/tone.wav"]
        words += ["hydra/launcher=cluster_slurm", "hydra.launcher.cpus_per_task=1"]
        process = started(tmp_path, *words, **conf)
        until(snapshots(tmp_path, 1))
        ask = ["squeue", "--noheader", "--array", "--states=R", "--format=%i"]
        said = subprocess.run(ask, env=os.environ | conf, capture_output=True, text=True)
        subprocess.run(["scancel", said.stdout.split()[0]], env=os.environ | conf, check=True)
        said = finished(process, 1)
        assert "CANCELLED" in said and "2 of 3 jobs ok" in said
        finished(started(tmp_path, *words, **conf), 0)
        assert [job["status"] for job in jobs(tmp_path)] == ["ok"] * 3
    finally:
        subprocess.run([*here, "stop", str(tmp_path / "slurm")], timeout=100)


@pytest.mark.process
@pytest.mark.slow
@clusters
@needs("hydra_ray_launcher")
def test_a_lost_node_of_ray_costs_its_job_and_no_other(tmp_path, tiny, sounds):
    call, port = [sys.executable, "-m", "ray.scripts.scripts"], 6397
    head = ["start", "--head", f"--port={port}", "--include-dashboard=false"]
    head += [f"--temp-dir={Path('/tmp') / f'acgd-ray-{os.getpid()}'}"]  # sockets want short names
    other = ["start", f"--address=127.0.0.1:{port}"]
    alike = ["--num-cpus=1", "--object-store-memory=100000000"]
    env = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    try:
        for node in (head, other):
            subprocess.run([*call, *node, *alike], env=env, check=True, timeout=200)
        words = [*tiny, *SLOW, "guidance.clip=500,600,700", "prompt.path=sounds/tone.wav"]
        words += ["hydra/launcher=cluster_ray", f"hydra.launcher.ray.init.address=127.0.0.1:{port}"]
        process = started(tmp_path, *words)
        until(snapshots(tmp_path, 2))
        kill_one("raylet/raylet --raylet_socket_name")  # the node that came last
        said = finished(process, 1)
        assert "its process was lost" in said and "2 of 3 jobs ok" in said
        finished(started(tmp_path, *words), 0)
        assert [job["status"] for job in jobs(tmp_path)] == ["ok"] * 3
        assert went_on(tmp_path) == 1
    finally:
        subprocess.run([*call, "stop", "--force"], env=env, timeout=100)
