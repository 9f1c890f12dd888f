"""Where the time and the memory go: python scripts/benchmark.py [--only PARTS] [KEY=VALUE ...]

    main      the command as it is typed, from the shell to the picture: seconds and peak memory
    startup   --help and a mistake in the config, beside a Python that does nothing
    steps     one step of the sampler, by option: seconds a picture and peak memory
    sweep     a sweep of eight jobs, its pictures one by one and in one batch

`benchmark.py full` is the notebook's configuration at its true size: see benchmark_full.py.
`benchmark.py quality` says what a second buys: see benchmark_quality.py.
`benchmark.py originals` sets the original packages beside acgd: see benchmark_originals.py.

Columns: wall seconds, the processor's seconds (over all threads, little moved by what else runs),
peak memory (of the largest process), and the wall seconds against the first line of the part:
machines and loads differ, so compare within one run. The steps' cases take turns, round by round,
and the median counts. Overrides hold for all parts but `startup`.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUN = [sys.executable, str(ROOT / "run.py")]
PARTS = ("main", "startup", "steps", "sweep")
OTHER = "the other layout"  # of the networks' memory, see acgd/models/layout.py
STEPS = {  # case: overrides, pictures in the batch
    "as configured, 1 picture": ([], 1),
    "4 pictures": ([], 4),
    "8 pictures": ([], 8),
    "no guidance": (["guidance.clip=0", "guidance.range=0"], 1),
    "through_unet=false": (["guidance.through_unet=false"], 1),
    "num_cutouts=4": (["guidance.num_cutouts=4"], 1),
    "num_cutouts=32": (["guidance.num_cutouts=32"], 1),
    "num_cutouts=32, cutout_chunk=8": (
        ["guidance.num_cutouts=32", "guidance.cutout_chunk=8"],
        1,
    ),
    "cfg=0": (["guidance.cfg_scale=0"], 1),
    "cfg=1": (["guidance.cfg_scale=1"], 1),
    "cfg=3": (["guidance.cfg_scale=3"], 1),
    OTHER: ([], 1),
}


JOBS = ["guidance.clip=500,1000", "seed=range(4)", "sampler.steps=20", "report=false", "-m"]


@dataclass
class Figure:
    what: str
    seconds: float
    processor: float  # seconds
    megabytes: float  # nan where the system does not tell


def measure(command: list[str], succeeds: bool = True) -> Figure:
    """Run a command to its end: wall seconds, peak memory. SystemExit if it ends unexpectedly.

    A process starts with its parent's peak as its own: call this before torch is imported here.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        if (process.returncode == 0) != succeeds:
            said.seek(0)
            sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{said.read()[-2000:]}")
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024  # of ru_maxrss: bytes there, KiB here
    processor = usage.ru_utime + usage.ru_stime
    return Figure(" ".join(command), seconds, processor, usage.ru_maxrss / unit)


def measure_main(overrides: list[str]) -> Iterator[Figure]:
    """The main job in a process of its own, writing to a folder that is thrown away."""
    for what, more in (("main job", []), ("main job, logger=none", ["logger=none"])):
        with tempfile.TemporaryDirectory() as folder:
            figure = measure([*RUN, f"outputs='{folder}'", *overrides, *more])
        figure.what = what
        yield figure


def measure_startup() -> Iterator[Figure]:
    cases = {
        "python -c pass": ([sys.executable, "-c", "pass"], True),
        "--help": ([*RUN, "--help"], True),
        "a wrong group": ([*RUN, "sampler=nope"], False),
        "a wrong key": ([*RUN, "guidance.clipp=3"], False),
        "a sound that is not there": ([*RUN, "prompt.path=nowhere.wav"], False),
    }
    for what, (command, succeeds) in cases.items():
        figure = measure(command, succeeds)
        figure.what = what
        yield figure


def measure_steps(overrides: list[str], steps: int, rounds: int) -> Iterator[Figure]:
    """Median over rounds of the seconds that a step takes for each picture of the batch."""
    found: dict[str, list[Figure]] = {what: [] for what in STEPS}
    time_steps("warm-up", overrides, 1, 1)
    for _ in range(rounds):
        for what, (own, batch) in STEPS.items():
            found[what].append(time_steps(what, [*overrides, *own], batch, steps))
    for what, figures in found.items():
        seconds = statistics.median(figure.seconds for figure in figures)
        processor = statistics.median(figure.processor for figure in figures)
        peak = max(figure.megabytes for figure in figures)
        yield Figure(f"a step, {what}", seconds, processor, peak)


def time_steps(what: str, overrides: list[str], batch: int, steps: int) -> Figure:
    """Seconds of a step and picture; the first step of the run does not count."""
    import torch

    from acgd.models.layout import layout
    from acgd.pipeline.meter import Meter

    models, run = prepare(overrides, batch)
    order = layout(models.device)
    if what == OTHER:
        last = order == torch.channels_last
        order = torch.contiguous_format if last else torch.channels_last
    models.model.unet.to(memory_format=order)
    models.encoder.model.visual.to(memory_format=order)
    synchronise = torch.cuda.synchronize if models.device.startswith("cuda") else lambda: None
    meter = Meter(models.device)
    next(run)
    synchronise()
    start, processor = time.perf_counter(), time.process_time()
    taken = batch * max(1, sum(1 for _ in itertools.islice(run, steps)))
    synchronise()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    return Figure(what, seconds / taken, processor / taken, meter.megabytes() or math.nan)


def measure_sweep(overrides: list[str]) -> Iterator[Figure]:
    """Eight jobs in one command, start and end included."""
    for what, size in (("eight jobs, one by one", 1), ("eight jobs, in one batch", 8)):
        with tempfile.TemporaryDirectory() as folder:
            own = [f"outputs='{folder}'", "logger=none", f"batch_size={size}"]
            figure = measure([*RUN, *own, *JOBS, *overrides])
        figure.what = what
        yield figure


def prepare(overrides: list[str], batch: int) -> tuple[Any, Iterator]:
    """The models (kept from case to case) and a guided run of `batch` pictures of "a dog"."""
    from acgd.pipeline import settings
    from acgd.pipeline.sampling import sample
    from acgd.types import Target

    models, cfg = models_for(overrides)
    chosen = settings.read([{**cfg, "seed": seed} for seed in range(batch)])
    target = Target(models.encoder.text(["a dog"])[0], 1.0, "text", "a dog")
    return models, sample(models, [[target]] * batch, chosen, chosen.noise())


def models_for(overrides: list[str]) -> tuple[Any, dict]:
    """The models that a config asks for, kept by acgd from one to the next, and the config."""
    from acgd.config.compose import compose
    from acgd.pipeline.models import Models
    from acgd.runs.run import resolve

    cfg = resolve(compose(overrides))
    return Models(cfg), cfg


def show(figures: Iterator[Figure]) -> None:
    """A line for each figure as it comes, compared with the first."""
    first = None
    for figure in figures:
        first = first or figure
        print(
            f"{figure.what:38} {figure.seconds:8.3f} s {figure.processor:8.3f} s cpu"
            f" {figure.megabytes:6.0f} MB {figure.seconds / first.seconds:7.2f} x",
            flush=True,
        )
    print()


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["full"]:
        import benchmark_full

        return benchmark_full.main(arguments[1:])
    if arguments[:1] == ["quality"]:
        import benchmark_quality

        return benchmark_quality.main(arguments[1:])
    if arguments[:1] == ["originals"]:
        import benchmark_originals

        return benchmark_originals.main(arguments[1:])
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the config")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--steps", type=int, default=5, help="steps timed in a case")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each case takes")
    args = parser.parse_args(arguments)
    only = args.only.split(",")
    if strange := set(only) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(strange))}: choose from {', '.join(PARTS)}")
    if "main" in only:
        show(measure_main(args.overrides))
    if "startup" in only:
        show(measure_startup())
    if "steps" in only:
        show(measure_steps(args.overrides, args.steps, args.rounds))
    if "sweep" in only:
        show(measure_sweep(args.overrides))


if __name__ == "__main__":
    main()
