"""Does the describer's sentence name what is heard?

    python scripts/evaluate_describer.py --data data [--show] [KEY=VALUE ...]

Held-out clips of build_dataset's folder: ESC-10's third fold, the held-out soundfont's
instruments, other recordings. A sentence is right when it names its concept and no other.
KEY=VALUE are overrides of the config; describer=muscaps_tiny is what is measured by default.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

from tqdm import tqdm

from acgd.config.compose import compose
from acgd.config.instantiate import build
from acgd.pipeline import models
from acgd.pipeline.device import pick_device, pick_precision
from acgd.runs.run import resolve
from acgd.training.data.pairs import concept_prompts
from acgd.training.data.sound_sentences import concepts_named, grammars
from acgd.training.data.sound_views import SAMPLE_RATE, Sounds

LONGEST = 10  # seconds of a clip


def held_out(sounds: Sounds, most: int) -> dict[tuple[str, str], list[int]]:
    """Clips by group and concept, at most so many of each, the same ones every time."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, group in sounds.held_out():
        found[group, sounds.rows[i]["concept"]].append(i)
    draw = random.Random(0)
    return {key: draw.sample(own, min(most, len(own))) for key, own in sorted(found.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the config")
    parser.add_argument("--data", type=Path, required=True, help="build_dataset's folder")
    parser.add_argument("--clips", type=int, default=6, help="of a concept and group, at most")
    parser.add_argument("--show", action="store_true", help="print every sentence")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    overrides = ["describer=muscaps_tiny", *args.overrides]
    cfg = resolve(compose(overrides))
    device = pick_device(cfg["device"])
    precision = pick_precision(cfg["precision"], device)
    encoder = build(cfg["encoder"], device=device, precision=precision)
    describer = models.make(cfg["describer"], encoder=encoder, device=device, precision=precision)
    sounds, known = Sounds(args.data, list(concept_prompts())), grammars()
    right: dict[str, list[float]] = defaultdict(list)
    by_concept = {}
    for (group, concept), clips in tqdm(held_out(sounds, args.clips).items()):
        hits = []
        for i in clips:
            wave = sounds.clip(i)[: LONGEST * SAMPLE_RATE].numpy()
            text = " ".join(describer(wave, SAMPLE_RATE))
            hits.append(concepts_named(text, known) == [concept])
            if args.show:
                tqdm.write(f"{'ok ' if hits[-1] else '-- '} {concept:16} {text}")
        right[group] += hits
        by_concept[f"{group}: {concept}"] = f"{sum(hits)} of {len(hits)}"
    figures = {g: {"right": sum(h) / len(h), "clips": len(h)} for g, h in right.items()}
    for group, found in figures.items():
        print(f"{group:28} {found['right']:6.1%} of {found['clips']} sentences name the source")
    for name, count in by_concept.items():
        print(f"  {name:48} {count}")
    if args.out:
        args.out.write_text(json.dumps({**figures, "concepts": by_concept}, indent=1))


if __name__ == "__main__":
    main()
