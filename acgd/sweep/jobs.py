"""A sweep's jobs as they stand on disk: sweeps/DATE/NUMBER/status.json.

status is "waiting" (for its turn in a batch), "running", "ok", "failed" with error and traceback,
"interrupted", or "not started" after a failure elsewhere with fail_fast=true. `runs` are the
folders of its samples relative to outputs/NAME, written before anything is sampled.
"""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from acgd import atomic_files
from acgd.config.explain import explain
from acgd.errors import UserError, say, say_once
from acgd.pipeline.sample import Sample
from acgd.runs import folder as folders
from acgd.runs import records as run_records
from acgd.runs.run import Run, expand, resolve

FAILED = "failed"  # a file in the sweep's folder: some job failed
STOPPED = "fail_fast=true and another job failed"


class Job:
    """One job: what it was given, its runs, and how far they are."""

    def __init__(self, folder: Path, overrides: list[str]):
        self.folder, self.overrides = folder, overrides
        self.runs: list[Run] = []
        self.status = ""
        self.left: set[Path] = set()  # folders of samples that are still to come

    def expand(self, cfg: Any) -> list[Run]:
        """The runs of its config; in W&B they are grouped by the sweep, if nothing else is said.

        Of report=auto a sweep's runs have no pages: the sweep's shows them all.
        """
        cfg = resolve(cfg)
        if cfg["report"] == "auto":
            cfg = {**cfg, "report": False}
        if cfg["logger"].get("group", "") is None:
            cfg = {**cfg, "logger": {**cfg["logger"], "group": self.folder.parent.name}}
        return expand(cfg)

    def announce(self, runs: list[Run], status: str) -> None:
        self.runs, self.left = runs, {run.folder for run in runs}
        self.write(status)

    def write(self, status: str, error: BaseException | None = None) -> None:
        """Say how it is, with a traceback in its own folder where it failed."""
        self.status = status
        home = self.folder.parent.parent.parent
        runs = [os.path.relpath(run.folder.absolute(), home.absolute()) for run in self.runs]
        content = {"status": status, "overrides": self.overrides, "runs": runs}
        if error is not None:
            trace = "".join(traceback.format_exception(error))
            content |= {"error": explain(error), "traceback": trace}
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_files.write(self.folder / "status.json", json.dumps(content, indent=1) + "\n")

    def fail(self, error: BaseException, whose: str = "") -> None:
        self.write("failed", error)
        (self.folder.parent / FAILED).touch()
        say(whose + explain(error))

    def take(self, sample: Sample) -> None:
        """One of its samples is finished or has failed: the last one, or a failure, decides."""
        self.left.discard(sample.run.folder)
        if sample.error is not None:
            if sample.run.cfg["debug"]:
                traceback.print_exception(sample.error)
            self.fail(sample.error, f"{sample.run.label}, seed {sample.run.seed}: ")
        elif not self.left and self.status != "failed":
            self.write("ok")

    def value(self) -> float | None:
        """The mean of the score that the config asks to `optimize`, None where the job failed.

        Optuna takes None for a trial that failed and goes on; nan would end its search.
        """
        name = self.runs[0].cfg["optimize"] if self.status == "ok" else None
        try:
            return None if name is None else mean_score(self.runs, name)
        except UserError as error:
            self.fail(error)
            return None


def mean_score(runs: list[Run], name: str) -> float:
    """Of a finished job's samples; UserError where one of them has no such score."""
    scores = [run_records.read(run.folder)[0]["scores"] for run in runs]
    for run, score in zip(runs, scores, strict=True):
        if not isinstance(score.get(name), int | float):
            numbers = ", ".join(
                key for key, value in score.items() if isinstance(value, int | float)
            )
            raise UserError(f"optimize={name}: {run.folder} has no such score, but {numbers}")
    return sum(score[name] for score in scores) / len(scores)


def summary(folder: Path) -> int:
    """At the end of a sweep: a line for each job that did not end well; 1 if there is one."""
    paths = sorted(folder.glob("*/status.json"), key=lambda path: run_records.in_order(path.parent))
    jobs = [run_records.parse(path) for path in paths]
    bad = [job for job in jobs if job.get("status") != "ok"]
    given = [set(job.get("overrides", [])) for job in jobs]
    common = set.intersection(*given) if given else set()
    for job in bad:
        words = " ".join(one for one in job.get("overrides", []) if one not in common)
        words = words.replace("\\:", ":")  # as typed: Hydra escapes demo:dog
        why = job.get("error", "its process ended before it could say why")
        if job.get("status") != "waiting":
            say(f"{job.get('status', 'failed')}: {words}: {why}")
    if waiting := sum(job.get("status") == "waiting" for job in jobs):
        say(f"not begun: {waiting} of {len(jobs)} jobs; the same command makes them")
    if jobs:
        home = folder.parent.parent
        names = {name for job in jobs for name in run_records.names(job)}
        made = sum(folders.status(home / name) == "ok" for name in names)
        pictures = f" ({made} of {len(names)} pictures)" if bad else ""
        say(f"sweep: {len(jobs) - len(bad)} of {len(jobs)} jobs ok{pictures}, {folder}")
    tell_best(folder)
    return 1 if bad else 0


def tell_of_shared(jobs: list[dict]) -> None:
    """Say which jobs share a picture: their sounds are one, and a figure over both counts it twice.

    Of jobs in this process that is said before they begin (acgd.sweep.plugin).
    """
    first: dict[str, list[str]] = {}
    for job in jobs:
        given = [one for one in job.get("overrides", []) if one.startswith("prompt.path=")]
        for name in run_records.names(job):
            before = first.setdefault(name.rpartition("-")[2], given)  # its signature
            if before != given and before and given:
                names = [one[0].partition("=")[2].replace("\\:", ":") for one in (given, before)]
                say_once(f"{names[0]} has the same content as {names[1]}: the same picture twice")


def tell_best(folder: Path) -> None:
    """What a search found, as words for the command line; nothing for other sweeps."""
    path = folder / "optimization_results.yaml"  # of hydra/sweeper=optuna
    if path.is_file():
        best: Any = OmegaConf.load(path)
        for one in best.get("solutions", [best]):  # several where it searched for several things
            params, value = one.get("params", one.get("best_params")), one.get("values")
            words = " ".join(f"{key}={number}" for key, number in params.items())
            print(f"best       {one.best_value if value is None else value}  {words}")
