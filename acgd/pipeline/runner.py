"""From runs to finished folders: encode the prompts, sample in batches, caption, judge, write.

The runner and its hands (models, sampling, results) know the config; nothing below does. torch is
imported when there is something to be made: what is finished or cannot be is said before.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acgd import atomic_files
from acgd.checkpoints import registry
from acgd.config.instantiate import build
from acgd.config.keys import MODELS
from acgd.errors import UserError, one_line, say
from acgd.pipeline import batching
from acgd.pipeline.batching import batches, together
from acgd.pipeline.sample import Sample
from acgd.pipeline.targets import Heard, listen, look
from acgd.report import hooks
from acgd.runs import folder as folders
from acgd.runs import locks, manifest
from acgd.runs.run import Run, is_film

if TYPE_CHECKING:
    from torch import Tensor

    from acgd.pipeline.models import Models


def render(runs: list[Run]) -> None:
    """Make every run that is not finished; raises at the end if any of them failed."""
    failed, good, pages = [], 0, []
    for sample in make(runs, telling(alone=len(runs) == 1)):
        if sample.error is not None:
            failed.append(sample)
        elif not sample.made_before:
            from acgd.pipeline import outputs  # brings torch, which is there by now

            outputs.tell(sample, alone=len(runs) == 1)
            good += 1
            pages += [sample.run.folder] if sample.run.cfg["report"] else []
    if pages:
        atomic_files.flush(pages)
    if len(pages) > 1:
        hooks.of_name(pages[0].parent)
    conclude(failed, good, runs)


Begun = Callable[[list[Sample], "Models"], None]


def quietly(batch: list[Sample], models: Models) -> None:
    """What is told of a batch before it is drawn: nothing."""


def telling(alone: bool) -> Begun:
    """Tells what is heard, each thing once a command; torch is loaded by then."""
    printed: set[str] = set()

    def begun(batch: list[Sample], models: Models) -> None:
        from acgd.pipeline import outputs

        outputs.tell_heard(batch, models, alone, printed)

    return begun


def make(runs: list[Run], begun: Begun = quietly) -> Iterator[Sample]:
    """Each run as a sample, as soon as it is finished, has failed, or is found made before.

    Runs may differ in all they like; those that can be are sampled in one batch. After the first
    failure nothing new is begun where the config says `fail_fast`. begun(batch, models) is called
    when a batch's prompts have been heard and nothing is drawn yet.
    """
    todo = []
    for sample in opened(runs):
        if sample.error is None and not sample.made_before:
            todo.append(sample)
            continue
        yield sample
        if stops(sample):
            return
    ready, absent = [], dict[str, UserError | None]()  # one error for all that want the same
    for sample in todo:
        parts = {name: sample.run.cfg.get(name) for name in MODELS}
        key = json.dumps(parts, sort_keys=True)
        if key not in absent:
            absent[key] = registry.absent(parts)
        sample.error = absent[key]
        if sample.error is None:
            ready.append(sample)
        else:
            yield sample
    for group in batching.rounds(together(ready)):
        for sample in paint_all(group, begun):
            yield sample
            sample.release()
        if any(stops(sample) for sample in group):
            return
    yield from (sample for sample in ready if isinstance(sample.error, batching.HeldUp))


def stops(sample: Sample) -> bool:
    error = sample.error
    return error is not None and (sample.run.cfg["fail_fast"] or atomic_files.unwritable(error))


def opened(runs: list[Run]) -> Iterator[Sample]:
    """Samples whose prompts have been looked at, before any model is loaded."""
    before = {run.folder for run in runs if not run.cfg["force"] and finished(run)}
    if len(before) > 1:
        say(f"{len(before)} of {len(runs)} pictures were made before (force=true: again)")
    sources: dict[str, Any] = {}
    for run in runs:
        sample = Sample(run, made_before=run.folder in before)
        if len(before) == 1 and sample.made_before:
            where = f"made before, in {run.folder} (force=true makes it again)"
            say(f"{run.label}, seed {run.seed}: {where}")
        if not sample.made_before:
            guarded([sample], partial(look, sample, sources))
        yield sample


def finished(run: Run) -> bool:
    """Whether a run is ok and whole; a line says of one that is damaged that it is made again."""
    status = folders.state(run.folder)
    if status.get("status") != "ok":
        return False
    if fault := manifest.fault(run.folder, status):
        say(f"{run.folder} is damaged ({fault}): it is made again")
        return False
    locks.open_up(run.folder)
    return True


def paint_all(group: list[Sample], begun: Begun) -> Iterator[Sample]:
    """A group's samples batch by batch; W&B gets its copy of them beside the next one."""
    from acgd.pipeline.models import Models

    cfg, heard_before = group[0].run.cfg, dict[str, Heard]()
    logger = build(cfg["logger"])
    logger.begin()
    models = guarded(group, lambda: Models(cfg))
    for batch in batches(group, cfg, models.batch_size) if models else [group]:
        if models and not batch[0].made_before:
            attempt(batch, models, heard_before, begun)
        logger.tell([s.run.folder for s in batch if s.error or s.picture])
        yield from batch
        if any(stops(sample) for sample in batch):
            break
    logger.mirror([])


def attempt(
    batch: list[Sample], models: Models, heard_before: dict[str, Heard], begun: Begun = quietly
) -> None:
    """Make a batch. What fails in a batch is tried alone, so that one cannot hurt the others."""
    for sample in batch:
        guarded([sample], partial(listen, sample, models, heard_before))
    batch = [sample for sample in batch if sample.error is None]
    begun(batch, models)
    if guarded(batch, lambda: paint(batch, models)) or len(batch) < 2:
        return
    if not any(sample.error and atomic_files.unwritable(sample.error) for sample in batch):
        for sample in batch:
            sample.error, sample.record.losses = None, []
            guarded([sample], partial(paint, [sample], models))


def guarded(samples: list[Sample], work: Callable[[], Any]) -> Any:
    """work(), whose failure becomes that of these samples; Ctrl-C is noted and goes on."""
    try:
        return work()
    except BaseException as error:
        for sample in samples:
            sample.record.fail(error)
            sample.error = error if isinstance(error, Exception) else None
        if not isinstance(error, Exception):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the batch's tensors
        return None


def paint(batch: list[Sample], models: Models) -> bool:
    """One batch from its targets to finished folders; True when it is through."""
    from acgd.pipeline import captioning, outputs, scoring, snapshot
    from acgd.pipeline.drawing import draw_with_twins
    from acgd.pipeline.film import make as film
    from acgd.pipeline.meter import Meter
    from acgd.runs import environment

    if not batch:
        return True
    meter, resume_from = Meter(models.device), snapshot.find(batch)
    for sample in batch:
        sample.record.start([other.run.folder for other in batch])
        scale = sample.run.cfg["guidance"].get("cfg_scale") if models.model.cond_dim != 0 else 0
        where = f"{models.device}, {models.precision}, cfg_scale {scale or 0:g}"
        sample.record.log(f"{where}, batch of {len(batch)}")
        made_with = environment.describe(sample.run.cfg, models.device, models.precision)
        sample.record.json("environment.json", made_with | {"batch": sample.record.batch_members})
    models.make_room()
    if is_film(batch[0].run.cfg):  # one at a time
        picture, about = film.draw(batch[0], models)
        pixels, twins = picture[None], None
    else:
        pixels, twins = draw_with_twins(batch, models, resume_from)
        batch, pixels, twins = without_failed(batch, pixels, twins)
        about = None
    if not batch:
        return True
    scoring.judge(batch, models, pixels, twins)
    if about is not None:
        batch[0].scores["film"] = about
    captioning.write(batch, models, pixels)
    took = meter.batch(len(batch))
    for i, sample in enumerate(batch):
        if twins is not None:
            outputs.show(sample, twins[i], "-twin")
        outputs.write(sample, pixels[i])
    folders.finish([sample.record for sample in batch], batch=took)
    for sample in batch:
        if sample.run.cfg["report"]:
            hooks.of_run(sample.run.folder)
    return True


def without_failed(
    batch: list[Sample], pixels: Tensor, twins: Tensor | None
) -> tuple[list[Sample], Tensor, Tensor | None]:
    """Those that are pictures; the others' snapshots would only lead there again."""
    for sample in batch:
        if sample.error is not None:
            (sample.run.folder / folders.SNAPSHOT).unlink(missing_ok=True)
    rows = [i for i, sample in enumerate(batch) if sample.error is None]
    return [batch[i] for i in rows], pixels[rows], None if twins is None else twins[rows]


def conclude(failed: list[Sample], good: int, runs: list[Run]) -> None:
    """Where everything is; raises if something failed, with all reasons told."""
    if good and good + len(failed) > 1:
        cfg = runs[0].cfg
        print(f"folder     {Path(cfg['outputs']) / str(cfg['name'])}")
    errors = [sample.error for sample in failed if sample.error is not None]
    if errors and not good and len({id(error) for error in errors}) == 1:
        raise errors[0]
    for sample, error in zip(failed, errors, strict=True):
        say(f"{sample.run.label}, seed {sample.run.seed}: {one_line(error)}")
    if failed:
        message = f"{len(failed)} of {good + len(failed)} pictures failed, see their status.json"
        raise UserError(message)
