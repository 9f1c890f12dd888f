"""From runs to finished folders: encode the prompts, sample in batches, caption, judge, write.

The runner and its hands (studio, sampling, results) know the config; nothing below does. torch is
imported when there is something to be made: what is finished or cannot be is said before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acgd import config, references
from acgd.config import Run, build
from acgd.loggers import disk
from acgd.sample import Sample
from acgd.types import UserError

if TYPE_CHECKING:
    from acgd.studio import Studio


def render(runs: list[Run]) -> None:
    """Make every run that is not finished; raises at the end if any of them failed."""
    cfg = runs[0].cfg  # they differ in their sound and seed only
    samples = [Sample(run) for run in runs if cfg["force"] or not finished(run)]
    for sample in samples:
        guarded([sample], lambda sample=sample: look(sample))
    todo = [sample for sample in samples if sample.error is None]
    if todo:
        from acgd.studio import Studio

        logger = build(cfg["logger"])
        logger.begin()
        studio = guarded(todo, lambda: Studio(cfg))
        for batch in batches(todo, cfg) if studio else []:
            guarded(batch, lambda batch=batch: paint(batch, studio, cfg))
        logger.mirror([sample.run.folder for sample in todo if sample.error is None])
    report(samples, Path(cfg["outputs"]) / str(cfg["name"]))


def look(sample: Sample) -> None:
    """Open the prompt, before any model is loaded."""
    sample.source = build(sample.run.cfg["prompt"])
    sample.source.check()
    references.check(sample.run.cfg.get("references"))


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
        return None


def batches(samples: list[Sample], cfg: dict) -> Iterator[list[Sample]]:
    """Samples that can be sampled together: those that stand at the same step."""
    from acgd import snapshot

    size = 1 if cfg["shared_noise"] else cfg["batch_size"]
    if not cfg["force"] and snapshot.resumable(build(cfg["sampler"])):
        for sample in samples:
            sample.snapshot = snapshot.load(sample.run.folder)
    stand = [sample.snapshot.steps if sample.snapshot else 0 for sample in samples]
    for steps in sorted(set(stand), reverse=True):
        group = [sample for sample, at in zip(samples, stand, strict=True) if at == steps]
        for i in range(0, len(group), size):
            yield group[i : i + size]


def paint(batch: list[Sample], studio: Studio, cfg: dict) -> None:
    """One batch from prompts to finished folders."""
    from acgd import captions, results, snapshot
    from acgd.meter import Meter
    from acgd.sampling import draw, to_bytes

    meter = Meter(studio.device)
    for sample in batch:
        sample.record.start()
        sample.record.log(
            f"{studio.device}, {studio.precision}, cfg {studio.cfg_scale:g}, batch of {len(batch)}"
        )
        listen(sample, studio)
    studio.make_room()
    pixels = to_bytes(draw(batch, studio, cfg))
    twins = to_bytes(draw(batch, studio, cfg, twin=True)) if cfg["twin"] else None
    results.judge(batch, studio, cfg, pixels, twins)
    captions.write(batch, studio, pixels)
    took = meter.batch(len(batch))
    for i, sample in enumerate(batch):
        if twins is not None:
            results.show(sample, twins[i], "-twin")
        results.write(sample, pixels[i])
        sample.record.finish(batch=took)
        snapshot.remove(sample.run.folder)
        results.tell(sample, alone=len(batch) == 1)


def listen(sample: Sample, studio: Studio) -> None:
    """The prompt as targets, by the encoder and, for the metrics only, by the judge."""
    from acgd.prompts.text import fraction, join

    wave = sample.source.wave(studio.encoder.sample_rate)
    if wave is not None:
        sample.words = studio.describer(wave, studio.encoder.sample_rate)
        if hasattr(studio.describer, "rank"):  # one that chooses can say how sure it is
            sample.described = studio.describer.rank(wave, studio.encoder.sample_rate)
    words, share = sample.words, studio.describer.share  # with a share of 0 they steer nothing
    prompts = sample.source(studio.encoder)
    sample.heard = studio.by_encoder.heard(prompts)
    prompts = studio.by_encoder.spoken(prompts, fraction(sample.run.cfg["heard"], "heard"))
    sample.targets = join(prompts, words, studio.encoder, share)
    if studio.judge is not None and (wave is None or hasattr(studio.judge, "scale_at")):
        sample.judged = join(sample.source(studio.judge), words, studio.judge, share)


def finished(run: Run) -> bool:
    if disk.status(run.folder) != "ok":
        return False
    say(f"{run.label}, seed {run.seed}: made before, in {run.folder} (force=true makes it again)")
    return True


def report(samples: list[Sample], folder: Path) -> None:
    """Where everything is; raises if something failed, with all reasons told."""
    failed = [sample for sample in samples if sample.error is not None]
    if len(samples) > len(failed) and len(samples) > 1:
        print(f"folder     {folder}")
    if len(failed) == len(samples) > 0 and len({id(sample.error) for sample in failed}) == 1:
        raise failed[0].error
    for sample in failed:
        say(f"{sample.run.label}, seed {sample.run.seed}: {config.one_line(sample.error)}")
    if failed:
        raise UserError(f"{len(failed)} of {len(samples)} pictures failed, see their status.json")


def say(line: str) -> None:
    print(f"acgd: {line}", file=sys.stderr)
