"""Who makes a run: processes that work on the same outputs share them out, batch by batch.

A batch is begun by the process that holds the locks of all its folders. What another process holds
is put off and looked at again: by then it is finished, or its maker has died and the work goes on
from its last snapshot. The system gives up a dead process's locks, so none is ever left behind.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from acgd.errors import say
from acgd.runs import folder as folders
from acgd.runs.locks import free, held
from acgd.sample import Sample

PAUSE = 0.5  # seconds between two looks at what others are making


def rounds(groups: list[list[Sample]]) -> Iterator[list[Sample]]:
    """Each group, and again what is left of it while other processes are making that."""
    yield from groups
    told = False
    while groups := [left for group in groups if (left := [s for s in group if not s.ended])]:
        if not told:
            count = sum(len(group) for group in groups)
            say(f"another process is making {count} of the pictures: waiting for them")
            told = True
        time.sleep(PAUSE)
        for group in groups:
            if any(free(sample.run.folder) for sample in group):
                yield group


def turns(group: list[Sample], size: int) -> Iterator[list[Sample]]:
    """Batches that are this process's alone while they are worked on.

    Samples that another process has finished by now come without being worked on, `made_before`.
    """
    for batch in batches([sample for sample in group if not sample.ended], size):
        with held([sample.run.folder for sample in batch]) as mine:
            if not mine:
                continue
            made = [sample for sample in batch if finished(sample)]
            for sample in made:
                sample.made_before = True
            if made:
                yield made
            elif batches(batch, size) == [batch]:  # nobody has begun them otherwise
                yield batch


def batches(samples: list[Sample], size: int) -> list[list[Sample]]:
    """Batches of at most `size`: those that were begun before as they were, then the rest in order.

    A batch is the same again however many of its folders its process came to write into.
    """
    known = {Path(os.path.normpath(sample.run.folder)): sample for sample in samples}
    begun = {path: folders.company(path) for path in known}
    groups = []
    for company in {tuple(company): None for company in begun.values() if company}:
        mates = [p for p in company if p in begun and begun[p] in ([], list(company))]
        groups.append([known.pop(path) for path in mates if path in known])
    groups.append(list(known.values()))
    return [group[i : i + size] for group in groups for i in range(0, len(group), size)]


def finished(sample: Sample) -> bool:
    """Whether there is nothing to do; what was written and did not come to say so is told to."""
    folders.settle(sample.run.folder)
    return not sample.run.cfg["force"] and folders.status(sample.run.folder) == "ok"
