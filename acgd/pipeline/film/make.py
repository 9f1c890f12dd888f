"""A film's run from its sound to the finished folder.

    frames/        the different pictures, and frames.csv, which of them stands at which moment
    timeline.csv   what is heard when
    film.mp4       with its sound; film.webp, small and mute, of short films
    images/        the picture of what is heard longest, and timeline.png

A film that was interrupted goes on at the first batch of frames that is not there.
"""

from __future__ import annotations

import csv
import io
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from acgd.encoders.zero_shot import Viewer
from acgd.errors import UserError, fraction
from acgd.pipeline.film import frames, hearing, movie
from acgd.pipeline.models import Models
from acgd.pipeline.outputs import show_lines
from acgd.pipeline.sample import Sample
from acgd.runs.folder import Record
from acgd.types import Target

TOLD = 6  # stretches on the terminal


def draw(sample: Sample, models: Models) -> tuple[Tensor, dict]:
    """Make the film's files; the picture (3, H, W) uint8 of what is heard longest, and what is
    known of the film."""
    cfg, record = sample.run.cfg, sample.record
    film, path = cfg["film"], cfg["prompt"].get("path")
    if not path:
        raise UserError("film.fps: a film is of a sound, so it needs prompt.path")
    movie.library()
    windows = hearing.listen(path, models.encoder, film["window"], film["hop"])
    found, smooth = hearing.stretches(windows, models.by_encoder, film["hold"])
    record.text("timeline.csv", timeline(found))
    show_lines([f"heard      {in_words(found)}"])
    targets = by_label(sample, models, windows, smooth, {stretch.label for stretch in found})
    morph = film["morph"] if film["mode"] == "morph" else 0.0
    looks = frames.plan(found, windows.loudness, film["hop"], film["fps"], morph, film["pulse"])
    different = list(dict.fromkeys(looks))
    seen = {label for look in looks for label in (look.label, look.to)}
    found = [stretch for stretch in found if stretch.label in seen]  # few frames miss short ones
    place = record.folder / "frames"
    with tqdm(total=len(different), desc=f"{sample.run.label[:20]} frames",
              mininterval=0.2 if sys.stderr.isatty() else 5.0) as bar:  # fmt: skip
        for done in frames.draw(different, targets, models, cfg, place):
            bar.update(done - bar.n)
    number = {look: i for i, look in enumerate(different)}
    files = [place / f"{number[look]:05d}.png" for look in looks]
    record.text("frames.csv", listed(looks, number, film["fps"]))
    stills = {s.label: place / f"{number[still(different, s.label)]:05d}.png" for s in found}
    movie.mp4(files, path, film["fps"], record.folder / "film.mp4")
    movie.webp(files, film["fps"], record.folder / "film.webp")
    save_strip(movie.strip(found, stills), record)
    longest = max(found, key=lambda stretch: stretch.end - stretch.start).label
    known = about(files, found, stills, models.by_judge, film["fps"])
    return pixels_of(Image.open(stills[longest])), known


def still(looks: list[frames.Look], label: str) -> frames.Look:
    """The look at rest of a label, at whatever loudness; else the one nearest to it."""
    at_rest = [one for one in looks if one.label == one.to == label]
    on_the_way = sorted((one for one in looks if label in (one.label, one.to)),
                        key=lambda one: one.way if one.label == label else 1 - one.way)  # fmt: skip
    return (at_rest or on_the_way)[0]


def by_label(
    sample: Sample,
    models: Models,
    windows: hearing.Windows,
    smooth: np.ndarray,
    labels: set[str],
) -> dict[str, list[Target]]:
    """What each label's picture is steered to: the sound of its windows, as any sound's prompt,
    and the prompt's words where it has some."""
    prompts = [target for target in sample.targets if target.kind == "text"]
    share, weight = fraction(sample.run.cfg["heard"], "heard"), sounds_weight(sample)
    viewer, targets = models.by_encoder, dict[str, list[Target]]()
    words = {target.label for target in prompts} & set(sample.words)  # of the first ten seconds
    prompts = [target for target in prompts if target.label not in words]
    for label in sorted(labels):
        embed = hearing.direction(windows, smooth, viewer.labels.index(label))
        heard = Target(embed.to(models.device), weight, "audio", label)
        named = Target(models.encoder.text([label])[0], weight * share, "heard", label)
        rest = [Target(heard.embed, weight * (1 - share), "audio", label)] if share < 1 else []
        targets[label] = [*prompts, *rest, named]
    return targets


def sounds_weight(sample: Sample) -> float:
    return sum(t.weight for t in sample.targets if t.kind in ("audio", "heard")) or 1.0


def about(
    files: list[Path], found: list[hearing.Stretch], stills: dict, judge: Viewer | None, fps: float
) -> dict:
    """What a film is like: its length, how much neighbours differ (mean absolute difference of
    pixels in [0, 1]), and the share of its time in which the judge sees what is heard."""
    changes = [0.0 if a == b else difference(a, b) for a, b in pairwise(files)] or [0.0]
    said = {"seconds": round(len(files) / fps, 3), "frames": len(files), "fps": fps}
    said |= {"pictures": len(set(files)), "stretches": len(found)}
    said |= {
        "change_mean": round(float(np.mean(changes)), 5),
        "change_most": round(max(changes), 5),
    }
    if judge is not None:
        right = {label for label, path in stills.items() if sees(judge, path) == label}
        time = sum(s.end - s.start for s in found if s.label in right)
        said["follows"] = round(time / (found[-1].end or 1), 4)
    return said


def difference(a: Path, b: Path) -> float:
    """Mean absolute difference of two pictures' pixels in [0, 1]."""
    one, other = (np.asarray(Image.open(path).convert("RGB"), np.float32) for path in (a, b))
    return float(np.abs(one - other).mean() / 255)


def sees(judge: Viewer, path: Path) -> str:
    pixels = pixels_of(Image.open(path))[None].float() / 255
    seen = judge.images(pixels.to(judge.embeds.device))[0]
    return judge.names(seen, judge.model.scale_it, most=1)[0][0]


def pixels_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


def in_words(found: list[hearing.Stretch]) -> str:
    """What is heard when, for the terminal; of many stretches the first."""
    said = [f"{s.label} {s.start:g} to {s.end:.4g} s" for s in found[:TOLD]]
    rest = [f"{len(found) - TOLD} more in timeline.csv"] if len(found) > TOLD else []
    return ", ".join([*said, *rest])


def timeline(found: list[hearing.Stretch]) -> str:
    rows = [[f"{s.start:.3f}", f"{s.end:.3f}", s.label, f"{s.odds:.4f}"] for s in found]
    return table(["start", "end", "heard", "odds"], rows)


def listed(looks: list[frames.Look], number: dict[frames.Look, int], fps: float) -> str:
    rows = [[i, f"{i / fps:.4f}", f"{number[one]:05d}.png", one.label, one.to, f"{one.way:.4f}"]
            for i, one in enumerate(looks)]  # fmt: skip
    return table(["frame", "second", "picture", "from", "to", "way"], rows)


def table(head: list[str], rows: list[list]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def save_strip(image: Image.Image, record: Record) -> None:
    from acgd.atomic_files import write

    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    (record.folder / "images").mkdir(exist_ok=True)
    write(record.folder / "images" / "timeline.png", buffer.getvalue())
