"""Hydra's basic sweeper and launcher with their jobs made together.

Both take the place of Hydra's own `basic` (REPLACED). Composing a job takes them milliseconds
(`acgd.sweep.compose`), and samples of all jobs share the network's batches. With other launchers
each job makes its own samples, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from tqdm.auto import tqdm

from acgd.config.explain import explain
from acgd.errors import UserError, say, say_once
from acgd.runs.run import MOST_RUNS, Run, other_names
from acgd.sweep.compose import Composer
from acgd.sweep.jobs import STOPPED, Job

MANY = 2000  # jobs that take seconds to plan


class Sweeper(BasicSweeper):
    """All combinations of the values, in the order of the words on the command line."""

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list:
        """UserError for an override that names no value, and for more jobs than a command takes."""
        jobs = 1
        for one in overrides:
            if not one.is_discrete_sweep():
                continue
            count = sum(1 for _ in islice(one.sweep_string_iterator(), MOST_RUNS + 1))
            if not count:
                raise UserError(f"{one.input_line}: this names no value, so there is no job")
            jobs *= count
        if jobs > MOST_RUNS:
            raise UserError(
                f"this names more jobs than the {MOST_RUNS} of one command: give it in parts"
            )
        if jobs > MANY:
            say(f"planning {jobs} jobs")
        return BasicSweeper.split_arguments(overrides, max_batch_size)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Whether Hydra can compose all jobs; `InProcess` does so before the first is made."""
        if not isinstance(self.launcher, InProcess):
            super().validate_batch_is_legal(batch)


class InProcess(Launcher):
    """Makes all jobs' samples in this process, those of different jobs in one batch."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        loader, self.config = hydra_context.config_loader, config
        self.compose = Composer(
            lambda given: loader.load_sweep_config(config, given), loader.get_group_options
        )

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Compose, announce and make the jobs. Raises only what none of them survives."""
        setup_globals()
        cfgs = [self.compose(overrides) for overrides in job_overrides]
        folder = Path(str(self.config.hydra.sweep.dir))
        jobs = [
            Job(folder / str(number), list(filter_overrides(overrides)))
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        ]
        announce(jobs, cfgs)
        make(jobs)
        if any(job.status == "not started" for job in jobs):
            raise UserError(f"stopped at the first failure (fail_fast=true), see {folder}")
        return [returned(job) for job in jobs]


def announce(jobs: list[Job], cfgs: list[dict]) -> None:
    """Write down each job's runs. Raises where no job has any, all for the same reason."""
    errors: list[tuple[Job, Exception]] = []
    expanded: list[tuple[Job, list[Run]]] = []
    for job, cfg in zip(jobs, cfgs, strict=True):
        try:
            expanded.append((job, job.expand(cfg)))
        except Exception as reason:
            errors.append((job, reason))
    if not expanded and len({explain(error) for _, error in errors}) == 1:
        raise errors[0][1]
    tell_of_twins([run for _, runs in expanded for run in runs])
    for job, runs in expanded:
        job.announce(runs, "waiting")
    for job, error in errors:
        job.fail(error)


def tell_of_twins(runs: list[Run]) -> None:
    """Say which sounds of different jobs are one: a figure over both would count it twice."""
    first: dict[str, Run] = {}
    for run in runs:
        if names := other_names(first.setdefault(run.signature, run), run):
            say_once(f"{names[1]} has the same content as {names[0]}: the same picture twice")


def make(jobs: list[Job]) -> None:
    """Make the samples of all jobs; each job is told of its own."""
    from acgd.pipeline import runner

    owners: dict[Path, list[Job]] = {}
    runs: dict[Path, Run] = {}
    for job in jobs:
        for run in job.runs:
            owners.setdefault(run.folder, []).append(job)
            runs.setdefault(run.folder, run)
    hasty = any(run.cfg["fail_fast"] for run in runs.values())
    failed = any(job.status == "failed" for job in jobs)
    try:
        begun = runner.telling(alone=len(runs) == 1)
        every = [] if hasty and failed else list(runs.values())
        by_job = dict(zip(map(id, jobs), values(jobs), strict=True))
        with tqdm(total=len(runs), desc="pictures", unit="", mininterval=1.0, disable=None) as bar:
            for sample in runner.make(every, begun):
                bar.update()
                mine = owners[sample.run.folder]
                if sample.picture and sample.error is None:
                    from acgd.pipeline import outputs

                    outputs.tell(sample, alone=len(runs) == 1, beside=by_job[id(mine[0])])
                for job in mine:
                    job.take(sample)
    except KeyboardInterrupt:
        for job in jobs:
            if job.left and job.status != "failed":
                job.write("interrupted")
        raise
    for job in jobs:
        if job.left and job.status != "failed":
            job.write("not started", UserError(STOPPED))


def values(jobs: list[Job]) -> list[str]:
    """What each job was given that not all were."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    own = [" ".join(one for one in job.overrides if one not in common) for job in jobs]
    return [words.replace("\\:", ":") for words in own]  # as typed: Hydra escapes demo:dog


def returned(job: Job) -> JobReturn:
    """What Hydra's sweepers are told; a failed job has no value."""
    value = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)
    value.return_value = job.value()
    return value


REPLACED = {
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper": Sweeper,
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher": InProcess,
}
