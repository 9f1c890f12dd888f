"""What a second buys: python scripts/benchmark.py quality [--names 20] [--only CASES] [KEY=VALUE]

Pictures of concepts' names by the embedded models, one seed each, in one setting after another:
processor seconds of a picture, and how well a judge that never guides finds the name in it. All
settings draw the same names with the same seeds, so the score's difference to the notebook's way
(a thousand steps of DDPM, each guided through the UNet by 16 cutouts) is a paired one, given with
its 95 % interval. A star marks a setting that no other one beats in both columns.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

NOTEBOOK, DDPM = "the notebook's way", ["sampler=ddpm"]
CASES: dict[str, list[str]] = {
    NOTEBOOK: [
        *DDPM,
        "sampler.steps=1000",
        "guidance.through_unet=true",
        "guidance.num_cutouts=16",
    ],
    "as configured": [],
    **{f"ddpm, {n} steps": [*DDPM, f"sampler.steps={n}"] for n in (10, 15, 25, 40, 100, 250)},
    **{f"ddim, {n} steps": ["sampler=ddim", f"sampler.steps={n}"] for n in (10, 15, 20, 40, 100)},
    **{f"plms, {n} steps": ["sampler=plms", f"sampler.steps={n}"] for n in (10, 20, 40)},
    **{f"dpmpp, {n} steps": ["sampler=dpmpp", f"sampler.steps={n}"] for n in (4, 6, 10, 15, 20)},
    **{f"every={n}": [f"guidance.every={n}"] for n in (2, 4)},
    **{f"num_cutouts={n}": [f"guidance.num_cutouts={n}"] for n in (2, 4, 16, 32)},
    "through_unet=true": ["guidance.through_unet=true"],
    "guided in the first half": ["guidance/schedule=window", "guidance.schedule.end=0.5"],
    "guided in the second half": ["guidance/schedule=window", "guidance.schedule.start=0.5"],
    **{f"clip={n}": [f"guidance.clip={n}"] for n in (0, 100, 500, 1000)},
    **{f"cfg_scale={n}": [f"guidance.cfg_scale={n}"] for n in (1, 3, 4)},
}


@dataclass
class Found:
    case: str
    seconds: float  # of the processor, for a picture
    similarity: list[float]  # the judge's, of each picture to its name
    first: float  # share of pictures whose name the judge finds most like them


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmark.py quality", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the config")
    parser.add_argument("--names", type=int, default=20, help="how many concepts, evenly spread")
    parser.add_argument("--batch", type=int, default=10, help="pictures drawn at once")
    parser.add_argument("--only", help="cases, separated by semicolons")
    args = parser.parse_intermixed_args(arguments)
    cases = args.only.split(";") if args.only else list(CASES)
    if strange := set(cases) - CASES.keys():
        parser.error(f"unknown case {sorted(strange)[0]!r}: choose from {'; '.join(CASES)}")
    found = []
    for case in cases:
        found.append(draw(case, [*args.overrides, *CASES[case]], args.names, args.batch))
        print(f"{case}: {found[-1].seconds:.2f} s", flush=True)
    print(*table(found), sep="\n")


def draw(case: str, overrides: list[str], names: int, batch: int) -> Found:
    """Pictures of evenly spread concepts, a seed each, and what the judge says of them."""
    import torch
    from benchmark import models_for

    from acgd.pipeline import settings
    from acgd.pipeline.sampling import sample
    from acgd.types import Target

    models, cfg = models_for(overrides)
    labels = models.labels
    chosen = [round(i * (len(labels) - 1) / max(1, names - 1)) for i in range(names)]
    embeds = models.encoder.text([labels[c] for c in chosen])
    similarity, first, seconds = [], 0, 0.0
    for i in range(0, names, batch):
        part = chosen[i : i + batch]
        own = settings.read([{**cfg, "seed": seed} for seed in part])
        targets = [[Target(embed, 1.0, "text", "")] for embed in embeds[i : i + batch]]
        began = time.process_time()
        for step in sample(models, targets, own, own.noise()):
            x = step.x
        with torch.no_grad():
            pictures = ((models.model.decode(x) + 1) / 2).clamp(0, 1)
            seconds += time.process_time() - began
            likeness = models.by_judge.images(pictures) @ models.by_judge.embeds.T
        similarity += [float(row[c]) for row, c in zip(likeness, part, strict=True)]
        first += sum(int(row.argmax()) == c for row, c in zip(likeness, part, strict=True))
    return Found(case, seconds / names, similarity, first / names)


def table(found: list[Found]) -> Iterator[str]:
    """A line for each setting, the quickest first; the differences are to the notebook's way where
    it was drawn, else to the first setting given."""
    base = next((one for one in found if one.case == NOTEBOOK), found[0])
    yield f"{'setting':28} {'s cpu':>7} {'of ' + str(round(base.seconds, 1)):>8} {'first':>6} " + (
        f"{'judge':>7}  against {base.case}"
    )
    for one in sorted(found, key=lambda one: one.seconds):
        mean, half = apart(one.similarity, base.similarity)
        beaten = any(
            other.seconds < one.seconds and average(other) >= average(one) for other in found
        )
        yield (
            f"{one.case:28} {one.seconds:7.2f} {one.seconds / base.seconds:8.3f} {one.first:6.0%} "
            f"{average(one):7.3f}  {mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"
            f"{'' if beaten else ' *'}"
        )


def average(one: Found) -> float:
    return sum(one.similarity) / len(one.similarity)


def apart(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Mean of the differences and half of its 95 % interval (normal approximation)."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    n, mean = len(differences), sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / max(1, n - 1)
    return mean, 1.96 * math.sqrt(variance / n)
