"""The README's pictures, made anew: python scripts/pictures.py [KEY=VALUE ...]

scripts/pictures/sounds.webp: a column for each demo sound, a row for each seed; words.webp: the
same for words. Runs are kept in outputs/readme/ and are not made twice.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from acgd.config.compose import compose
from acgd.pipeline import runner
from acgd.runs.run import expand

HERE = Path(__file__).resolve().parent / "pictures"
SEEDS = (0, 1, 2)
SOUNDS = ("songbird", "dog", "horse", "guitar", "wind", "singing")
WORDS = ("cat", "rain", "rocket", "piano", "owl", "fire crackling")
SIDE, GAP, LINE = 128, 6, 20  # pixels


def pictures(column: list[str], overrides: list[str]) -> list[Image.Image]:
    """One picture for each seed."""
    seeds = f"seed=[{','.join(map(str, SEEDS))}]"
    cfg = compose([*column, seeds, "name=readme", "logger=none", *overrides])
    runs = expand(cfg)
    runner.render(runs)
    return [Image.open(run.folder / f"images/seed{run.seed}.png") for run in runs]


def sheet(name: str, columns: dict[str, list[str]], overrides: list[str]) -> None:
    """Pictures under the names of their columns, on white."""
    step = SIDE + GAP
    paper = Image.new("RGB", (len(columns) * step + GAP, LINE + len(SEEDS) * step), "white")
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(13)
    for i, (title, column) in enumerate(columns.items()):
        left = GAP + i * step
        draw.text((left + SIDE // 2, LINE // 2), title, "black", font, anchor="mm")
        for j, picture in enumerate(pictures(column, overrides)):
            small = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            paper.paste(small, (left, LINE + j * step))
    HERE.mkdir(exist_ok=True)
    paper.save(HERE / f"{name}.webp", quality=90, method=6)  # a tenth of a PNG
    print(HERE / f"{name}.webp")


def main(overrides: list[str]) -> None:
    sounds = {f"{name}.ogg": ["prompt=audio", f"prompt.path=demo:{name}"] for name in SOUNDS}
    words = {f'"{name}"': ["prompt=text", f"prompt.text='{name}'"] for name in WORDS}
    sheet("sounds", sounds, overrides)
    sheet("words", words, overrides)


if __name__ == "__main__":
    main(sys.argv[1:])
