"""hydra/launcher=joblib: jobs side by side in processes of this machine.

A process keeps its models for its next job, and torch takes its share of the cores. Where there are
GPUs each process has one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from acgd.sweep.launchers import gpus
from acgd.sweep.launchers.base import Elsewhere, Lost, attempt


class Joblib(Elsewhere):
    """n_jobs: processes, -1 for one a GPU where there are any, else one a core; the other options
    are joblib.Parallel's, too."""

    def open(self) -> None:
        self.work.gpus = gpus.visible() if gpus.wanted(self.device) else []
        if self.work.gpus and self.options["n_jobs"] == -1:
            self.options["n_jobs"] = len(self.work.gpus)

    def spread(self, jobs: dict[int, list[str]]) -> Iterator[tuple[int, Any]]:
        from joblib import Parallel, delayed

        options = self.options | {"backend": "loky", "return_as": "generator_unordered"}
        for name in ("batch_size", "pre_dispatch", "max_nbytes"):
            if str(options[name]).isdecimal():  # the plugin's config has them as words
                options[name] = int(options[name])
        left, again = dict(jobs), set[int]()
        while left:
            pool = Parallel(**options)
            calls = [delayed(attempt)(self.work, number, given) for number, given in left.items()]
            try:
                for number, value in pool(calls):
                    left.pop(number)
                    yield number, value
            except BrokenProcessPool:  # one process was killed, and joblib ended the others
                begun = {number for number in left if self.status(number) != "waiting"}
                for number in sorted(begun & again if begun else left):
                    left.pop(number)
                    yield number, Lost("its process was killed twice; repeat the command")
                for number in begun - again:  # which of them it was, nobody knows
                    again.add(number)
                    self.wait(number, jobs[number])
