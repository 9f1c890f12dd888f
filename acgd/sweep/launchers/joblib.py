"""hydra/launcher=joblib: jobs side by side in processes of this machine.

A process keeps its models for its next job, and torch takes its share of the cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from acgd.sweep.launchers.base import Elsewhere, Lost, attempt


class Joblib(Elsewhere):
    """n_jobs: processes, -1 for one a core; the other options are joblib.Parallel's, too."""

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
