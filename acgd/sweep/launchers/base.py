"""Sweeps whose jobs run in other processes: on this machine, under Slurm, on a Ray cluster.

The configs are those of Hydra's launcher plugins. The plugins' own classes end a sweep with the
first job whose process is lost and leave the rest unattended; these, which stand in for them
(`acgd.sweep.launchers.registry`), wait for every job, tell of a lost one at once and go on.
"""

from __future__ import annotations

import json
import os
import shutil
import traceback
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.core.utils import JobStatus as Ended
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from acgd import atomic_files
from acgd.config.explain import explain
from acgd.errors import UserError, say
from acgd.runs import folder as folders
from acgd.sweep.jobs import FAILED, tell_of_shared
from acgd.sweep.launchers import gpus

HERE = Path(__file__).resolve().parents[3]


class Lost(UserError):
    """A job's process ended before the job did."""


@dataclass
class Work:
    """What a worker needs for any job of the sweep; it travels there pickled."""

    context: HydraContext
    task: TaskFunction  # what hydra.main was given: it writes the job's status.json itself
    config: DictConfig
    state: Any  # of Hydra's singletons
    cwd: str  # where the command was given
    claims: Path  # folder where processes claim the machine's GPUs
    gpus: list[str]  # those that they share; none on a cluster

    def __call__(self, number: int, overrides: list[str]) -> Any:
        """Run the job; returns what it returns, raises what keeps it from beginning."""
        gpus.claim(self.gpus, self.claims)
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as acgd.pipeline, before torch comes
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.chdir(self.cwd)
        setup_globals()
        Singleton.set_state(self.state)
        cfg = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(cfg):
            cfg.hydra.job.id, cfg.hydra.job.num = f"{cfg.hydra.job.name}_{number}", number
        HydraConfig.instance().set_config(cfg)
        return run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=cfg,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        ).return_value

    def checkpoint(self, number: int, overrides: list[str]) -> Any:
        """For submitit, when Slurm takes the machine away: the job goes on at its last snapshot."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, number, overrides)


def attempt(work: Work, number: int, overrides: list[str]) -> tuple[int, Any]:
    """The job's number and what it returns or what it raised."""
    try:
        return number, work(number, overrides)
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))  # pickling loses the traceback
        return number, error


class Elsewhere(Launcher):
    """What these launchers have in common; each says in `spread` how jobs come to processes.

    A job's status.json says `waiting` until the job itself writes there; where its process is lost,
    `failed` and why.
    """

    heard = True  # whether what jobs print can be seen here

    def __init__(self, **options: Any):
        self.options: Any = OmegaConf.to_container(OmegaConf.create(options), resolve=True)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.folder = Path(config.hydra.sweep.dir)
        self.device = config.device
        claims = (self.folder / ".gpus").absolute()
        self.work = Work(hydra_context, task_function, config, None, os.getcwd(), claims, [])

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        jobs = {initial_job_idx + i: list(given) for i, given in enumerate(job_overrides)}
        self.work.state = Singleton.get_state()
        path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(HERE), *filter(None, path)]))
        self.open()
        for number, overrides in jobs.items():
            self.wait(number, overrides)
        values, common = {}, set.intersection(*map(set, jobs.values())) if len(jobs) > 1 else set()
        for number, value in self.spread(jobs):
            values[number] = value
            self.ended(number, [one for one in jobs[number] if one not in common], value)
        shutil.rmtree(self.work.claims, ignore_errors=True)
        tell_of_shared([folders.state(self.folder / str(number)) for number in jobs])
        return [returned(values.get(number), jobs[number]) for number in jobs]

    def open(self) -> None:
        """Get ready; UserError where there is nobody to give jobs to."""

    @abstractmethod
    def spread(self, jobs: dict[int, list[str]]) -> Iterator[tuple[int, Any]]:
        """Run every job; yield its number and its value or exception as soon as it has ended."""

    def wait(self, number: int, overrides: list[str]) -> None:
        (self.folder / str(number)).mkdir(parents=True, exist_ok=True)
        self.write(number, {"status": "waiting", "overrides": overrides})

    def status(self, number: int) -> str:
        return folders.status(self.folder / str(number))

    def write(self, number: int, content: dict) -> None:
        atomic_files.write(
            self.folder / str(number) / "status.json", json.dumps(content, indent=1) + "\n"
        )

    def ended(self, number: int, overrides: list[str], value: Any) -> None:
        """Write down what the job could not write itself, and tell what cannot be seen here.

        own: the overrides that are not those of every job.
        """
        status = folders.state(self.folder / str(number))
        if isinstance(value, Exception) and status.get("status") in ("waiting", "running"):
            trace = "".join(traceback.format_exception(value))
            status |= {"status": "failed", "error": explain(value), "traceback": trace}
            self.write(number, status)
            (self.folder / FAILED).touch()
        elif self.heard:
            return
        said = status.get("error") or status.get("status", "no status.json")
        say(f"job {number}, {' '.join(overrides)}: {said}")


def returned(value: Any, overrides: list[str]) -> JobReturn:
    """What Hydra's sweepers are told; a failed job has no value (see acgd.sweep.jobs.Job.value)."""
    ended = JobReturn(overrides=overrides, status=Ended.COMPLETED)
    ended.return_value = None if isinstance(value, Exception) else value
    return ended
