"""Pictures for eyes that know nothing of them: numbered grids without names, and what they scored.

`python scripts/evaluate.py --blind OUT` writes grid_1.png and so on, pictures in shuffled order
with a number each, and key.json, which whoever looks must not see. They write down what they see,
a line a picture ("17: a dog"), and

    python scripts/evaluate.py --blind OUT --answers answers.txt

scores the lines against the concepts' names and accepted synonyms (acgd/weights/concepts.csv).
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from PIL import Image, ImageDraw

from acgd.errors import UserError

SHOWN, COLUMNS, ROWS, LABEL = 190, 7, 3, 24  # pixels a picture, pictures a grid, pixels of a number
ORDER = 23  # seed of the shuffle
FILLERS = {"a", "an", "the", "of", "is", "maybe", "some", "kind", "emoji", "picture", "drawing"}


def write(out: Path, pictures: list[Image.Image], concepts: list[str]) -> None:
    """Grids of at most 21 numbered pictures, and the key."""
    order = list(range(len(pictures)))
    random.Random(ORDER).shuffle(order)
    out.mkdir(parents=True, exist_ok=True)
    size = COLUMNS * ROWS
    for i in range(0, len(order), size):
        part = order[i : i + size]
        height = -(-len(part) // COLUMNS) * (SHOWN + LABEL)
        sheet = Image.new("RGB", (COLUMNS * SHOWN, height), "white")
        draw = ImageDraw.Draw(sheet)
        for at, index in enumerate(part):
            x, y = at % COLUMNS * SHOWN, at // COLUMNS * (SHOWN + LABEL)
            shown = pictures[index].resize((SHOWN - 8, SHOWN - 8), Image.Resampling.BICUBIC)
            sheet.paste(shown, (x + 4, y + LABEL))
            draw.text((x + 6, y + 4), str(i + at + 1), fill="black", font_size=16)
        sheet.save(out / f"grid_{i // size + 1}.png")
    key = {str(number): concepts[index] for number, index in enumerate(order, 1)}
    (out / "key.json").write_text(json.dumps(key, indent=1, ensure_ascii=False))


def score(out: Path, answers: Path, synonyms: dict[str, list[str]]) -> dict:
    """{"right", "of", "share", "wrong"}; UserError for a line that is no answer."""
    key, wrong = json.loads((out / "key.json").read_text()), []
    given = read(answers)
    for number, concept in key.items():
        said = given.get(int(number), "")
        if not names(said, [concept, *synonyms.get(concept, [])]):
            wrong.append({"picture": int(number), "shows": concept, "said": said})
    right = len(key) - len(wrong)
    return {"right": right, "of": len(key), "share": round(right / len(key), 3), "wrong": wrong}


def read(answers: Path) -> dict[int, str]:
    """Lines such as "17: a dog" or "17. dog / puppy"."""
    found = {}
    for line in answers.read_text(encoding="utf-8-sig").splitlines():
        if not line.strip():
            continue
        parts = re.fullmatch(r"\s*(\d+)\s*[:.)\t,-]\s*(.*)", line)
        if not parts:
            raise UserError(f"{answers}: {line!r} is no answer: write NUMBER: WHAT YOU SEE")
        found[int(parts[1])] = parts[2]
    return found


def names(said: str, accepted: list[str]) -> bool:
    """Whether an answer holds all the words of one of the accepted names, plural or not."""
    words = stems(said)
    return any(own and own <= words for own in (stems(name) for name in accepted))


def stems(text: str) -> set[str]:
    """The words that say something, singular."""
    words = set(re.findall(r"[a-z]+", text.lower())) - FILLERS
    words = {re.sub(r"(?<=[a-z]{2})ies$", "y", word) for word in words}
    words = {re.sub(r"(?<=x|s|z)es$|(?<=ch|sh)es$", "", word) for word in words}
    return {re.sub(r"(?<=[a-z]{2}[^s])s$", "", word) for word in words}
