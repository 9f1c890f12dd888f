"""Which picture stands at which moment, and drawing them.

A film has few different pictures: one for each thing that is heard, and those on the way from one
to the next. All have the noise of one seed, so they differ by what they are steered to alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from acgd.atomic_files import write
from acgd.errors import UserError
from acgd.pipeline import settings as read_settings
from acgd.pipeline.film.hearing import Stretch
from acgd.pipeline.models import Models
from acgd.pipeline.sampling import sample, to_bytes
from acgd.types import Target

LEVELS = 6  # of loudness that a pulse tells apart


@dataclass(frozen=True)
class Look:
    """What a frame is steered to: `way` in [0, 1] from one label to the next, and a pulse."""

    label: str
    to: str
    way: float = 0.0
    level: int = 0  # of loudness, 0 to LEVELS - 1


def plan(
    found: Sequence[Stretch],
    loudness: np.ndarray,
    hop: float,
    fps: float,
    morph: float,
    pulse: float,
) -> list[Look]:
    """The look of each frame, `fps` a second. A change takes `morph` seconds, around its moment;
    0: a cut."""
    count = max(1, round(found[-1].end * fps))
    looks = []
    for i in range(count):
        t = (i + 0.5) / fps
        window = min(int(t / hop), len(loudness) - 1)
        level = round(float(loudness[window]) * (LEVELS - 1)) if pulse else 0
        looks.append(replace(at(found, t, fps, morph), level=level))
    return looks


def at(found: Sequence[Stretch], t: float, fps: float, morph: float) -> Look:
    """The look at a moment, without its pulse."""
    for a, b in pairwise(found):
        length = min(morph, 2 * (a.end - a.start), 2 * (b.end - b.start))
        if length and abs(t - a.end) < length / 2:
            steps = max(1, round(length * fps))
            u = round(((t - a.end) / length + 0.5) * steps) / steps
            u = u * u * (3 - 2 * u)  # slowly off, slowly to rest
            return Look(a.label, b.label, u) if 0 < u < 1 else rest(a.label if u <= 0 else b.label)
    return rest(next((s.label for s in found if s.start <= t < s.end), found[-1].label))


def rest(label: str) -> Look:
    return Look(label, label)


def blend(look: Look, targets: dict[str, list[Target]]) -> list[Target]:
    """Both labels' targets by their shares; their sum's direction moves along the sphere."""
    if look.way == 0:
        return targets[look.label]
    a = [replace(t, weight=t.weight * (1 - look.way)) for t in targets[look.label]]
    return a + [replace(t, weight=t.weight * look.way) for t in targets[look.to]]


def draw(
    looks: Sequence[Look],
    targets: dict[str, list[Target]],
    models: Models,
    cfg: dict,
    folder: Path,
) -> Iterator[int]:
    """Draw each of these different looks into folder/0000.png and so on; yields how many are
    there, batch by batch. What is there already is left: batches are the same each time."""
    size, film = models.batch_size, cfg["film"]
    folder.mkdir(parents=True, exist_ok=True)
    before: Image.Image | None = None
    size = 1 if film["mode"] == "init" else size
    for first in range(0, len(looks), size):
        batch = looks[first : first + size]
        paths = [folder / f"{first + i:05d}.png" for i in range(len(batch))]
        if not all(path.is_file() for path in paths):
            for path, pixels in zip(
                paths, pictures(batch, targets, models, cfg, before), strict=True
            ):
                write(path, png(pixels))
        if film["mode"] == "init":
            with Image.open(paths[-1]) as image:
                before = image.convert("RGB")
        yield first + len(batch)


def pictures(
    looks: Sequence[Look],
    targets: dict[str, list[Target]],
    models: Models,
    cfg: dict,
    before: Image.Image | None,
) -> np.ndarray:
    """(n, H, W, 3) uint8 of one batch, all of the film's seed."""
    film = cfg["film"]
    cfgs = [pulsed(cfg, look.level, film["pulse"], film["pulse_on"]) for look in looks]
    chosen = read_settings.read(cfgs)
    if before is not None:
        steps = models.model.diffusion(models.sampler.steps).num_timesteps
        chosen = replace(chosen, init_image=before, skip_steps=round(film["kept"] * steps))
    steered = [blend(look, targets) for look in looks]
    for step in sample(models, steered, chosen, chosen.noise()):
        x = step.x
    pixels = models.model.decode(x)
    if not pixels.isfinite().all():
        raise UserError("a frame holds no finite numbers: lower guidance.clip or film.pulse")
    return to_bytes(pixels).permute(0, 2, 3, 1).numpy()


def pulsed(cfg: dict, level: int, pulse: float, strength: str) -> dict:
    """The config with a strength of its guidance greater by `pulse` where the sound is loudest."""
    usual = cfg["guidance"].get(strength) or 0
    stronger = usual * (1 + pulse * level / (LEVELS - 1))
    return {**cfg, "guidance": {**cfg["guidance"], strength: stronger}}


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
