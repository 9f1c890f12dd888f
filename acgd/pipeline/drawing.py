"""A batch drawn with everything that listens: progress bar, losses, previews and snapshots.

`sampling.sample` takes the steps; here is what each of them leaves behind.
"""

from __future__ import annotations

import sys

from torch import Tensor
from tqdm.auto import tqdm

from acgd.diffusion.interfaces import Step
from acgd.pipeline import finite
from acgd.pipeline import settings as read_settings
from acgd.pipeline.models import Models
from acgd.pipeline.sample import Sample
from acgd.pipeline.sampling import Position, count_steps, sample, to_bytes
from acgd.pipeline.settings import Settings
from acgd.pipeline.snapshot import Snapshot, Watch


def draw_with_twins(
    batch: list[Sample], models: Models, resume_from: Snapshot | None = None
) -> tuple[Tensor, Tensor | None]:
    """The batch and, where asked for, its unguided twins: each (B, 3, H, W) uint8.

    A sample that ends in no numbers has its `error`; its row means nothing, the others' do.
    `resume_from`: where an interrupted batch stood.
    """
    settings = read_settings.read([one.run.cfg for one in batch], batch[0].init_image)
    if resume_from is not None and resume_from.picture is not None:
        picture = resume_from.picture
        for one, losses in zip(batch, resume_from.losses, strict=True):
            one.record.losses = list(losses)
    else:
        picture, resume_from = to_bytes(draw(batch, models, settings, resume_from)), None
    if not batch[0].run.cfg["twin"] or not any_left(batch):
        return picture, None
    twin = draw(batch, models, settings.unguided(), resume_from, picture)
    return picture, to_bytes(twin)


def draw(
    batch: list[Sample],
    models: Models,
    settings: Settings,
    resume_from: Snapshot | None = None,
    picture: Tensor | None = None,
) -> Tensor:
    """Sample the batch: pixels (B, 3, S, S), nominally in [-1, 1].

    Given the finished `picture`, its twin: without previews or losses of its own.
    """
    cfg, noise, total = batch[0].run.cfg, settings.noise(), count_steps(models, settings)
    position = None if resume_from is None else resumed(batch, models, resume_from)
    taken = 0 if position is None else position.steps
    targets = [one.targets for one in batch]
    steps = sample(models, targets, settings, noise, position)
    watch = Watch(batch, cfg["snapshot_every"], noise, picture)
    with progress(batch, total, taken, picture is not None) as bar, watch:
        for count, taken_step in enumerate(steps, taken + 1):
            numbers = finite.numbers(taken_step)
            finite.check(batch, numbers, count, settings)
            step = numbers.step
            if not any_left(batch):
                break
            bar.set_postfix({k: f"{v.mean():.3g}" for k, v in step.losses.items()}, refresh=False)
            bar.update()
            if picture is None:
                keep(batch, step, count, total, models)
            if count < total:
                watch.after(step, count)
    pixels = models.model.decode(step.x if settings.ends_with == "sample" else step.x0)
    finite.check_pixels(batch, pixels)
    return pixels


def any_left(batch: list[Sample]) -> bool:
    return any(one.error is None for one in batch)


def progress(batch: list[Sample], total: int, taken: int, twin: bool) -> tqdm:
    """The bar with the time left and the losses; fewer redrawings where it goes to a file."""
    names = [batch[0].run.label[:20]] + ["..."] * (len(batch) > 1) + ["unguided"] * twin
    pace = 0.2 if sys.stderr.isatty() else 5.0  # seconds
    return tqdm(total=total, initial=taken, desc=" ".join(names), mininterval=pace)


def resumed(batch: list[Sample], models: Models, snapshot: Snapshot) -> Position | None:
    """Where the batch stood, None for a snapshot of another shape; each sample's log says which."""
    fits = snapshot.x.shape == (len(batch), *models.model.shape)
    line = f"resumes after {snapshot.steps} steps" if fits else "a snapshot of another shape"
    for one, losses in zip(batch, snapshot.losses, strict=True):
        one.record.log(line if fits else f"{line}, starts anew")
        one.record.losses = list(losses) if fits else []
    return snapshot.position if fits else None


def keep(batch: list[Sample], step: Step, count: int, total: int, models: Models) -> None:
    """What a step leaves on disk: its losses and, every few steps, a preview."""
    alive = [(i, one) for i, one in enumerate(batch) if one.error is None]
    for i, one in alive:
        losses = {name: round(float(values[i]), 6) for name, values in step.losses.items()}
        one.record.step({"step": count, "t": int(step.t[i]), **losses})
    cfg = batch[0].run.cfg
    every = cfg["preview_every"]
    if count < total and not (every and count % every == 0):
        return
    if not every:
        for _, one in alive:
            one.record.flush()
        return
    pixels = to_bytes(models.model.decoder(cfg["guidance"].get("decoder", "full"))(step.x0))
    for i, one in alive:
        one.record.flush()
        preview = pixels[i].permute(1, 2, 0).numpy()
        one.record.picture(f"previews/step_{count:04d}.png", preview, cfg["enlarge_to"])
