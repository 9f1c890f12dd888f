"""How close a picture came to its prompt, as one model sees it.

The encoder that guided and a judge that did not are asked the same questions; only the judge's
answers mean anything about the picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from acgd.encoders.zero_shot import Viewer
from acgd.types import Target


def gain(scores: dict) -> dict:
    """{"gain": x}: how much nearer than its unguided twin the judge finds the picture; {} if none.

    In the similarity to the sound where both have one, else in that to the prompts.
    """
    both = [(scores.get(of) or {}).get("judge") or {} for of in ("picture", "twin")]
    for key in ("image_audio", "similarity"):
        picture, twin = (score.get(key) for score in both)
        if picture is not None and twin is not None:
            return {"gain": round(picture - twin, 5)}
    return {}


def concept_of(asked: str | None, targets: Sequence[Target], viewer: Viewer | None) -> str | None:
    """What the picture should show: as asked, what the viewer hears, or the heaviest text."""
    if asked is not None:
        return str(asked)
    texts = [target for target in targets if target.kind == "text" and target.weight > 0]
    sounds = [target for target in targets if target.kind == "audio" and target.weight > 0]
    if sounds and viewer is not None:
        return viewer.heard(sounds, most=1)[0][0]
    if not texts:
        return None
    text = max(texts, key=lambda target: target.weight).label
    plain = re.sub(r"^(an?|the) ", "", text.lower())
    return plain if viewer is not None and plain in viewer.labels else text
