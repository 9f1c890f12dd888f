"""hydra/launcher=submitit_local and cluster_slurm: each job in a process of its own.

What jobs print is in the sweep's folder under .submitit/. Where Slurm takes a machine away or the
time runs out, the job is queued anew and goes on at its last snapshot.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import time
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from acgd.errors import UserError, say
from acgd.sweep.launchers import gpus
from acgd.sweep.launchers.base import Elsewhere, Lost

ARRAY = 1000  # jobs that Slurm takes at once, by its own default
PAUSE, GRACE = 1.0, 15.0  # seconds between two looks; until a shared folder shows a file


class Submitit(Elsewhere):
    """The options are submitit's, null where they are left to it."""

    cluster, heard = "", False

    def spread(self, jobs: dict[int, list[str]]) -> Iterator[tuple[int, Any]]:
        queue, running = list(jobs), dict[int, Any]()
        missed: dict[int, float] = {}  # job -> when it was first found gone
        try:
            while queue or running:
                if some := queue[: max(0, self.room(len(running)))]:
                    queue = queue[len(some) :]
                    sent = self.send(some, [jobs[number] for number in some])
                    running |= dict(zip(some, sent, strict=True))
                time.sleep(PAUSE)
                there = self.there(list(running.values()))
                for number, job in list(running.items()):
                    since = missed.setdefault(number, time.monotonic())
                    if job.paths.result_pickle.exists():
                        yield number, outcome(running.pop(number))
                    elif there is None or job.job_id in there:
                        del missed[number]
                    elif time.monotonic() >= since + GRACE:
                        yield number, Lost(last_word(running.pop(number)))
        finally:  # empty, unless Ctrl-C ends the sweep
            for job in running.values():
                job.cancel(check=False)

    def open(self) -> None:
        from submitit import AutoExecutor

        options = {name: value for name, value in self.options.items() if value is not None}
        folder = os.path.abspath(options.pop("submitit_folder"))
        tries = options.pop("max_num_timeout", None)  # how often a job whose time ran out goes on
        first = {} if tries is None else {f"{self.cluster}_max_num_timeout": tries}
        try:
            self.executor = AutoExecutor(folder, cluster=self.cluster, **first)
            common = {"name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node"}
            common |= {"tasks_per_node", "stderr_to_stdout"}
            self.executor.update_parameters(
                **{name if name in common else f"slurm_{name}": options[name] for name in options}
            )
        except (RuntimeError, ValueError, TypeError, NameError) as error:
            raise UserError(f"hydra.launcher: {str(error).splitlines()[0]}") from error

    def send(self, numbers: list[int], given: list[list[str]]) -> list[Any]:
        from submitit.core.utils import FailedJobError

        try:
            return self.executor.map_array(self.work, numbers, given)
        except FailedJobError as error:  # sbatch says why on stderr
            why = re.findall(r"(?:error|fatal): (.+)", str(error)) or [str(error)]
            raise UserError(f"Slurm takes no jobs: {why[-1].strip()}") from error

    @abstractmethod
    def room(self, running: int) -> int:
        """How many jobs can be handed over now."""

    @abstractmethod
    def there(self, jobs: list[Any]) -> set[str] | None:
        """Ids of those that have yet to end; None where nobody says."""


class Local(Submitit):
    """As many processes at a time as there are GPUs; without any, as there are cores, or cores over
    cpus_per_task."""

    cluster = "local"

    def open(self) -> None:
        threads = self.options["cpus_per_task"] or 1
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        self.work.gpus = gpus.visible() if gpus.wanted(self.device) else []
        self.options["gpus_per_node"] = None  # or submitit would give all of them the first
        self.most = len(self.work.gpus) or max(1, cores() // threads)
        super().open()

    def room(self, running: int) -> int:
        return self.most - running

    def there(self, jobs: list[Any]) -> set[str] | None:
        return {job.job_id for job in jobs if not job.done()}


class Slurm(Submitit):
    """Slurm has a queue of its own: array_parallelism jobs of it run at a time."""

    cluster = "slurm"

    def open(self) -> None:
        if self.options["gpus_per_node"] is None and gpus.wanted(self.device):
            self.options["gpus_per_node"] = 1 if self.has_gpus() else None
        elif not self.options["gpus_per_node"] and gpus.wanted(self.device) and self.has_gpus():
            say("jobs get none of this cluster's GPUs: hydra.launcher.gpus_per_node=0")
        super().open()

    def has_gpus(self) -> bool:
        """Whether the partition that jobs go to has GPUs, as Slurm lists them."""
        ask, partition = ["sinfo", "--noheader", "--format=%G"], self.options["partition"]
        ask += [f"--partition={partition}"] if partition else []
        try:
            said = subprocess.run(ask, capture_output=True, text=True, timeout=60).stdout
        except (OSError, subprocess.TimeoutExpired):
            return False
        return re.search(r"\bgpu:", said) is not None

    usual = ("None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Dependency")

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.told = {*self.usual}  # reasons to wait that need not be told

    def room(self, running: int) -> int:
        return ARRAY

    def there(self, jobs: list[Any]) -> set[str] | None:
        """This user's jobs, 12 or 12_3 in an array. submitit would ask sacct, which many lack."""
        ask = ["squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r"]
        try:
            said = subprocess.run(ask, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if said.returncode:
            return None
        rows = [line.split("|") for line in said.stdout.splitlines()]
        for reason in {row[2] for row in rows if row[1] == "PENDING"} - self.told:
            self.told.add(reason)
            say(f"Slurm lets jobs wait: {reason}")
        return {row[0] for row in rows}


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def outcome(job: Any) -> Any:
    """What the job returned, or an exception with what it raised.

    The pickle is submitit's own, written by the job's process in this user's folder.
    """
    how, value = pickle.loads(job.paths.result_pickle.read_bytes())
    return value if how == "success" else UserError(str(value).strip().splitlines()[-1])


def last_word(job: Any) -> str:
    """Why a process ended, where Slurm or the system left a word."""
    words = re.findall(r"(?:slurm\S*: error: |Out of memory).*", job.stderr() or "")
    why = f" ({words[-1].strip()})" if words else ""
    return f"its process was lost{why}; repeat the command"
