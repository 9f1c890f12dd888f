"""What a config's values must be, said before anything is loaded."""

from __future__ import annotations

import math
import re

from acgd.config import trust
from acgd.errors import UserError
from acgd.paths import home

SCORE = re.compile(
    r"(?P<twin>twin\.)?(encoder|(?P<judge>judge))\."
    r"(similarity|rank|image_(audio|heard|text|image|reference))"
    r"|gain|caption_agreement|seconds|peak_mb"
)
CHOICES = {
    "picture": ("sample", "x0"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
}
AT_LEAST = {"batch_size": 1, "skip_steps": 0, "preview_every": 0, "enlarge_to": 0}


def check(plain: dict) -> None:
    """UserError for a value of the top level that can't be meant."""
    trust.check(plain, plain.get("trust") or ())
    home(plain["outputs"], plain["name"])
    for key, choices in CHOICES.items():
        if plain[key] not in choices:
            raise UserError(f"{key}={plain[key]}: choose from {', '.join(choices)}")
    for key, least in AT_LEAST.items():
        value = plain[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{key}={value}: must be a whole number, {least} or more")
    every(plain["snapshot_every"])
    for name in (*(plain["guidance"].get("losses") or ()), "cfg_scale"):
        value = plain["guidance"].get(name) or 0
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise UserError(f"guidance.{name}={value}: must be a number")
    check_score(plain)


def check_score(plain: dict) -> None:
    """UserError where `optimize` names no score that these runs will have."""
    name = plain["optimize"]
    if name is None:
        return
    found = SCORE.fullmatch(str(name))
    if not found:
        raise UserError(
            f"optimize={name}: no such score; take judge.similarity, judge.image_audio, "
            "judge.rank, encoder.similarity, gain, caption_agreement, seconds or peak_mb"
        )
    if (found["judge"] or name in ("gain", "caption_agreement")) and not plain["judge"]["_target_"]:
        raise UserError(f"optimize={name}: that is the judge's to say, and there is none")
    if (found["twin"] or name == "gain") and not plain["twin"]:
        raise UserError(f"optimize={name}: only with twin=true is there a twin")


def every(pace: int | str) -> tuple[int, float]:
    """(steps, seconds) of a pace, one of them 0: 10 is steps, "30s" and "0.5s" seconds, 0 never."""
    found = re.fullmatch(r"(\d+)|(\d+|\d*\.\d+) ?s", str(pace))
    if not found:
        raise UserError(f"snapshot_every={pace}: give steps as 10, seconds as 10s, or 0 for none")
    return int(found[1] or 0), float(found[2] or 0)
