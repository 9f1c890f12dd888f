"""What a finished sample leaves: its files, and its lines on the terminal."""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor

from acgd.pipeline.sample import Sample
from acgd.pipeline.scoring import verdict


def write(sample: Sample, pixels: Tensor) -> None:
    """The picture (3, H, W) uint8, what it was steered towards and how it scored."""
    run, record = sample.run, sample.record
    sample.picture = show(sample, pixels)
    by, score = verdict(sample)
    similarity = {k: v for k, v in score.items() if k.startswith("image_")}
    targets = [
        {"kind": target.kind, "label": target.label, "weight": round(target.weight, 6)}
        for target in sample.targets
    ]
    about = {"targets": targets, "heard": sample.heard, by: similarity}
    about |= {"described": sample.described} if sample.described else {}
    record.json("targets.json", about)
    named = {"label": run.label, "seed": run.seed, "signature": run.signature}
    said: dict[str, object] = {"caption": sample.caption or run.label}
    said |= {"words": sample.words} if sample.words else {}
    record.json("metrics.json", {**named, **said, **sample.scores})


def show(sample: Sample, pixels: Tensor, suffix: str = "") -> str:
    """The picture as it is looked at and, where that is enlarged, as it came; returns its path."""
    record, side = sample.record, sample.run.cfg["enlarge_to"]
    array = pixels.permute(1, 2, 0).numpy()
    name = f"images/seed{sample.run.seed}{suffix}"
    if min(array.shape[:2]) < side:
        record.picture(f"{name}-native.png", array)
    return str(record.picture(f"{name}.png", array, side))


def tell(sample: Sample, alone: bool) -> None:
    """A line for each thing known of a single picture, one line for each of several."""
    by, score = verdict(sample)
    heard = ", ".join(f"{label} {100 * p:.0f} %" for label, p in sample.heard[:3])
    parts = [] if score["similarity"] is None else [f"similarity {score['similarity']:.3f}"]
    if "rank" in score:
        parts.append(f'"{score["concept"]}" is number {score["rank"]} of {score["of"]} labels')
    said = ", ".join(parts) or f"sees {score['names'][0][0]}"
    if not alone:
        caption = f"  {sample.caption}" if sample.caption else ""
        show_lines([f"{sample.picture}  {by}: {said}{caption}"])
        return
    lines: dict[str, object] = {"asked": sample.run.label}
    if heard:
        lines = {"heard": heard, "described": ", ".join(sample.words)}
    lines |= {"picture": sample.picture, "caption": sample.caption, by: said}
    lines |= {"folder": sample.run.folder}
    show_lines([f"{name:9}  {line}" for name, line in lines.items() if line])


def show_lines(lines: list[str]) -> None:
    """Print what is finished, which it is though it cannot be shown."""
    with suppress(OSError, ValueError):
        print("\n".join(lines))
