"""Which samples go through the network together, and which of several processes makes them.

Samples share a batch whatever jobs they belong to. Processes that work on the same outputs share
them out, batch by batch: a batch is begun by the process that holds the locks of all its folders.
What another process holds is put off and looked at again: by then it is finished, or its maker has
died and the work resumes from its last snapshot. The system gives up a dead process's locks, so
none is ever left behind.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from acgd.config.keys import MODELS, OF_A_SAMPLE
from acgd.errors import UserError, say
from acgd.pipeline.sample import Sample
from acgd.runs import folder as folders
from acgd.runs.locks import free, held, stopped_holder
from acgd.runs.run import is_film

STOPPED_FOR = 30.0  # seconds that a process may be stopped before nobody waits for it
PAUSE = 0.5  # seconds between two looks at what others are making


def together(samples: list[Sample]) -> list[list[Sample]]:
    """Groups that may share batches; those with the same models one behind the other."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(batch_key(sample.run.cfg), []).append(sample)
    models: dict[str, list[list[Sample]]] = {}
    for group in groups.values():
        nodes = [group[0].run.cfg[name] for name in MODELS]
        models.setdefault(json.dumps(nodes, sort_keys=True), []).append(group)
    return [group for same in models.values() for group in same]


def batch_key(cfg: dict) -> str:
    """What samples of a batch have in common; equal for those that may share one.

    Of guidance's weights that is whether they are 0 (of cfg_scale, which of the network's ways it
    takes), so that a sample computes, draws and records the same alone as in a batch.
    """
    shared = {key: value for key, value in cfg.items() if key not in OF_A_SAMPLE}
    guidance = dict(cfg["guidance"])
    for name in guidance.get("losses") or ():
        guidance[name] = bool(guidance[name])
    if (scale := guidance.get("cfg_scale") or 0) not in (0, 1):
        guidance["cfg_scale"] = "some"
    else:
        guidance["cfg_scale"] = int(scale)
    return json.dumps(shared | {"guidance": guidance}, sort_keys=True)


def batches(group: list[Sample], cfg: dict, size: int) -> Iterator[list[Sample]]:
    """Those of a group's batches of `size` that are this process's to make, see `turns`."""
    alone = cfg["shared_noise"] or is_film(cfg)  # a film is a batch by itself
    return turns(group, 1 if alone else size)


class HeldUp(UserError):
    """Another process has the sample and does not go on."""


def rounds(groups: list[list[Sample]]) -> Iterator[list[Sample]]:
    """Each group, and again what is left of it while other processes are making that.

    Samples of a process that stays stopped are given up with a HeldUp and left untouched.
    """
    yield from groups
    announced, stopped = False, dict[Path, float]()
    while groups := [left for group in groups if (left := [s for s in group if not s.ended])]:
        if not announced:
            count = sum(len(group) for group in groups)
            say(f"another process is making {count} of the pictures: waiting for them")
            announced = True
        time.sleep(PAUSE)
        for group in groups:
            if any(free(sample.run.folder) for sample in group):
                yield group
            else:
                give_up(group, stopped)


def give_up(group: list[Sample], stopped: dict[Path, float]) -> None:
    """Let go of samples whose process has been stopped too long. `stopped`: since when each is."""
    for sample in group:
        folder, now = sample.run.folder, time.monotonic()
        holder = stopped_holder(folder)
        if holder is None:
            stopped.pop(folder, None)
        elif now - stopped.setdefault(folder, now) >= STOPPED_FOR:
            sample.error = HeldUp(
                f"process {holder} is making it and has been stopped for {STOPPED_FOR:g} s: let it "
                f"go on (kill -CONT {holder}) or end it, then give the command again"
            )


def turns(group: list[Sample], size: int) -> Iterator[list[Sample]]:
    """Batches that are this process's alone while they are worked on.

    Samples that another process has finished by now come without being worked on, `made_before`.
    """
    for batch in split([sample for sample in group if not sample.ended], size):
        with held([sample.run.folder for sample in batch]) as mine:
            if not mine:
                continue
            made = [sample for sample in batch if finished(sample)]
            for sample in made:
                sample.made_before = True
            if made:
                yield made
            elif split(batch, size) == [batch]:  # nobody has begun them otherwise
                yield batch


def split(samples: list[Sample], size: int) -> list[list[Sample]]:
    """Batches of at most `size`: those that were begun before as they were, then the rest in order.

    A batch is the same again however many of its folders its process came to write into.
    """
    by_folder = {Path(os.path.normpath(sample.run.folder)): sample for sample in samples}
    begun = {path: folders.batch_members(path) for path in by_folder}
    groups = []
    for members in {tuple(members): None for members in begun.values() if members}:
        mates = [p for p in members if p in begun and begun[p] in ([], list(members))]
        groups.append([by_folder.pop(path) for path in mates if path in by_folder])
    groups.append(list(by_folder.values()))
    return [group[i : i + size] for group in groups for i in range(0, len(group), size)]


def finished(sample: Sample) -> bool:
    """Whether there is nothing to do; what was written and did not come to say so is told to."""
    folders.settle(sample.run.folder)
    return not sample.run.cfg["force"] and folders.finished(sample.run.folder)
