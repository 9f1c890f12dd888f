"""What a config's values must be, said before anything is loaded."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from acgd.config import keys, trust
from acgd.config.keys import GROUPS, TABLE
from acgd.errors import UserError, say_once
from acgd.paths import CONF, home

SCORE = re.compile(
    r"(?P<twin>twin\.)?(encoder|(?P<judge>judge))\."
    r"(similarity|rank|image_(audio|heard|text|image|reference))"
    r"|gain|caption_agreement|audio_(text|caption)|seconds|peak_mb"
)


def check(plain: dict) -> None:
    """UserError for a value that can't be meant, for a part that is missing or not trusted."""
    for key in TABLE:
        if "." not in key and key not in plain and key != "trust":
            raise UserError(f"this config has no {key}: give it one with {key}=...")
    known = {key.partition(".")[0] for key in TABLE}
    for key in plain:
        if key not in known and key not in GROUPS:
            near = difflib.get_close_matches(key, [*TABLE, *GROUPS], n=2)
            like = f"; did you mean {' or '.join(near)}?" if near else ""
            raise UserError(f"{key}={shown(plain[key])}: there is no such key{like}")
    for group in GROUPS:
        check_part(group, plain.get(group), may_be_none=group == "judge")
    for key, value in leaves(plain):
        check_value(key, value)
    describer = plain["describer"]
    if str(describer["_target_"]).endswith(".NoWords") and describer.get("share"):
        say_once(f"describer.share={describer['share']}: changes nothing with describer=none")
    trust.check(plain, plain.get("trust") or ())
    home(plain["outputs"], plain["name"])
    check_losses(plain["guidance"])
    check_score(plain)
    if plain["init_image"] and not plain["skip_steps"] and not plain["guidance"].get("init"):
        raise UserError(
            f"init_image={plain['init_image']}: changes nothing as it is; add skip_steps=20 to "
            "start from it, or guidance.init=500 to stay near it"
        )


def check_part(group: str, node: Any, may_be_none: bool = False) -> None:
    """UserError where a group of the config is no part that was chosen."""
    if isinstance(node, dict) and (node.get("_target_") or (may_be_none and "_target_" in node)):
        return
    choices = options(group)
    said = "null" if node is None else "..." if isinstance(node, dict) else node
    other = f" ({group}=none does without)" if "none" in choices else ""
    raise UserError(f"{group}={said}: choose one with {group}={', '.join(choices)}{other}")


def options(group: str) -> list[str]:
    """The names that conf/ has for a group, "guidance/schedule" for one within another."""
    return sorted(path.stem for path in Path(CONF, group).glob("*.yaml"))


def leaves(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of what has no keys of its own; parts of one's own are left out."""
    target = node.get("_target_")
    if isinstance(target, str) and not trust.is_part(target):
        return
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and keys.kind_of(key) is None:
            yield from leaves(value, f"{key}.")
        else:
            yield key, value


def check_value(key: str, value: Any) -> None:
    if not is_unicode(value) and key != "prompt.path":  # whose files are looked at one by one
        raise UserError(f"{key}={value!a}: holds letters that are no UTF-8")
    kind = keys.kind_of(key)
    if kind is not None:
        if not kind.fits(value):
            raise UserError(f"{key}={shown(value)}: {kind.must} {kind.words}")
    elif key.endswith(".members"):
        raise UserError(f"{key}={shown(value)}: must be {{name: a part}}, see its yaml")
    elif keys.plain_key(key) in keys.NODES and (key, value) != ("guidance.schedule", None):
        group = key.replace(".", "/")
        raise UserError(
            f"{key}={shown(value)}: is a part with keys of its own; choose one with {group}="
            f"{value if value in options(group) else ', '.join(options(group)) or '...'}"
        )


def is_unicode(value: Any) -> bool:
    try:
        str(value).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def shown(value: Any) -> str:
    """A value as it is typed, cut where it is long."""
    words = {None: "null", True: "true", False: "false"}
    plain = isinstance(value, bool) or value is None
    text = words[value] if plain else str(value)
    if isinstance(value, str) and value in words.values():  # which was typed in quotes
        text = f"'{value}'"
    return text if len(text) <= 80 else text[:77] + "..."


def check_losses(guidance: dict) -> None:
    """UserError for losses that are none, and for a weight, of one's own loss too, that is none."""
    losses = guidance.get("losses")
    if losses is not None and not isinstance(losses, dict):
        raise UserError(f"guidance.losses={shown(losses)}: must be {{name: a loss}}, see its yaml")
    for name, node in (losses or {}).items():
        if not isinstance(node, dict) or "_target_" not in node:
            entry = f"guidance.losses.{name}={shown(node)}"
            raise UserError(f"{entry}: must be {{_target_: its class}}")
        if not keys.WEIGHT.fits(guidance.get(name)):
            entry = f"guidance.{name}={shown(guidance[name])}"
            raise UserError(f"{entry}: must be {keys.WEIGHT.words}")


def check_score(plain: dict) -> None:
    """UserError where `optimize` names no score that these runs will have."""
    name = plain["optimize"]
    if name is None:
        return
    match = SCORE.fullmatch(str(name))
    if not match:
        raise UserError(
            f"optimize={name}: no such score; take judge.similarity, judge.image_audio, "
            "judge.rank, encoder.similarity, gain, caption_agreement, audio_text, audio_caption, "
            "seconds or peak_mb"
        )
    judged = match["judge"] or name in ("gain", "caption_agreement", "audio_text", "audio_caption")
    if judged and not plain["judge"]["_target_"]:
        raise UserError(f"optimize={name}: that is the judge's to say, and there is none")
    if (match["twin"] or name == "gain") and not plain["twin"]:
        raise UserError(f"optimize={name}: only with twin=true is there a twin")


def every(pace: int | str) -> tuple[int, float]:
    """(steps, seconds) of a pace, one of them 0: 10 is steps, "30s" and "0.5s" seconds, 0 never."""
    match = re.fullmatch(r"(\d+)|(\d+|\d*\.\d+) ?s", str(pace))
    if not match:
        raise UserError(f"snapshot_every={pace}: give steps as 10, seconds as 10s, or 0 for none")
    return int(match[1] or 0), float(match[2] or 0)
