"""From the composed config to runs, to objects and to the name a run goes by.

Nothing here imports torch: a mistake in the config is answered before that takes its seconds.
What `acgd.config.instantiate.build` makes of it never sees a config.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from acgd.config.keys import BESIDE_THE_POINT
from acgd.config.validate import check
from acgd.errors import UserError, one_line, printable, say_once
from acgd.paths import WEIGHTS, at_home, home

WHOLE_FILE = 64 * 2**20  # bytes; larger files are told apart by their size and both ends
REMEMBERED = 2**20  # bytes; larger files are hashed once as long as their size and time stay
MOST_RUNS = 100_000  # of one command: beyond, planning alone takes minutes
_hashes: dict[tuple, str] = {}


@dataclass(frozen=True)
class Run:
    """One sample: one sound (or other prompt), one seed, one folder."""

    cfg: dict  # resolved; `seed` is a number, `prompt.path` a single file
    seed: int
    signature: str
    label: str
    folder: Path


def expand(cfg: Any) -> list[Run]:
    """One Run for each sound and seed that the config names, sounds in the outer loop."""
    plain = resolve(cfg)
    check(plain)
    plain = {**plain, "outputs": str(at_home(str(plain["outputs"])))}
    numbers, paths = seeds(plain["seed"]), sounds(plain["prompt"])
    if len(numbers) * len(paths) > MOST_RUNS:
        raise UserError(
            f"this names {len(numbers) * len(paths)} pictures, more than the {MOST_RUNS} of one "
            "command: give it in parts"
        )
    runs = []
    for path in paths:
        prompt = plain["prompt"] | ({} if path is None else {"path": path})
        one = {**plain, "seed": numbers[0], "prompt": prompt}
        counted = canonical(essence(one))  # once for all seeds: it reads the files
        runs += [run({**one, "seed": seed}, counted | {"seed": seed}) for seed in numbers]
    return different(runs)


def different(runs: list[Run]) -> list[Run]:
    """Without those that would draw the same picture, which is said: two names of one content."""
    first: dict[str, Run] = {}
    for run in runs:
        kept = first.setdefault(run.signature, run)
        if names := other_names(kept, run):
            say_once(f"{names[1]} has the same content as {names[0]}: one picture for both")
    return list(first.values())


def other_names(one: Run, other: Run) -> tuple[str, str] | None:
    """What tells two runs of one signature apart: their sounds' names, or where those are one, too,
    their paths; None for runs of one sound."""
    paths = [printable(str(run.cfg["prompt"].get("path"))) for run in (one, other)]
    if paths[0] == paths[1]:
        return None
    return (one.label, other.label) if one.label != other.label else (paths[0], paths[1])


def run(plain: dict, counted: dict | None = None) -> Run:
    """The Run of a resolved config with one sound and one seed; `counted`: what its signature
    counts, where that is known."""
    name = signature(plain) if counted is None else digest(counted)
    label = describe(plain["prompt"])
    slug = re.sub(r"[^\w]+", "-", label.lower()).strip("-")[:40].strip("-") or "prompt"
    folder = home(plain["outputs"], plain["name"]) / f"{slug}-seed{plain['seed']}-{name}"
    return Run(plain, plain["seed"], name, label, folder)


def resolve(cfg: Any) -> dict:
    """The config as plain dicts and lists; UserError names what is missing.

    A dict is taken for a config that was resolved before.
    """
    if not OmegaConf.is_config(cfg):
        return cfg
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{missing[0]} has no value: give it one with {missing[0]}=...")
    try:
        return cast(dict, OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from error


def seeds(value: Any) -> list[int]:
    """seed=3 or seed=[0,1,2]; UserError for anything that is no whole number of [0, 2^63)."""
    values = value if isinstance(value, list) else [value]
    for seed in values:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise UserError(f"seed={value}: must be a whole number from 0 on, or a list of them")
    if not values:
        raise UserError("seed=[]: name at least one seed")
    return values


def sounds(prompt: dict) -> list[str | None]:
    """The sound files of a prompt, [None] for a prompt without sound."""
    if "path" not in prompt:
        return [None]
    from acgd.media import audio

    return list(audio.find(prompt["path"]))


def describe(prompt: dict) -> str:
    """A few words for folder names and messages: the sound's name, else the text's beginning."""
    if "path" in prompt:
        return printable(Path(str(prompt["path"]).removeprefix("demo:")).stem)
    text = prompt.get("text") or prompt.get("image") or "prompt"
    return printable(str(text[0] if isinstance(text, list) else text))


def signature(cfg: Any) -> str:
    """Twelve hex digits that change with the picture and with nothing else.

    Numbers are canonical (1000, 1000.0 and 1e3 are one), files count by content, and device,
    precision, logger, batch size and the places of outputs don't count.
    """
    return digest(canonical(essence(cfg)))


def digest(counted: dict) -> str:
    text = json.dumps(counted, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def essence(cfg: Any) -> dict:
    """The resolved config less what is beside the point of the picture."""
    kept = json.loads(json.dumps(resolve(cfg)))
    for key in BESIDE_THE_POINT:
        *parents, last = key.split(".")
        node = kept
        for parent in parents:
            node = node.get(parent) or {}
        node.pop(last, None)
    if not is_film(kept):
        kept.pop("film", None)  # of a picture they say nothing
    for key, usual in (("prompt.pick", "start"), ("prompt.template", None),
                       ("guidance.decoder", "full"), ("film.pulse_on", "cfg_scale")):  # fmt: skip
        group, name = key.split(".")
        if name in (kept.get(group) or {}) and kept[group][name] == usual:
            kept[group].pop(name)  # as it was before there was a choice
    return kept


def is_film(cfg: dict) -> bool:
    """Whether a run is a film, of a recording of any length."""
    return bool((cfg.get("film") or {}).get("fps"))


def canonical(value: Any, key: str = "") -> Any:
    """Equal things written equally: whole numbers as ints, files as their content's hash."""
    if isinstance(value, dict):
        return {k: canonical(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [canonical(v, key) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and key != "text":
        if re.fullmatch(r"0|[1-9]\d{0,14}", value):
            return int(value)
        if path := existing_file(value):
            return f"file:{fingerprint(path)}"
        name, colon, weight = value.rpartition(":")  # a picture prompt with its weight
        if path := existing_file(name):
            return f"file:{fingerprint(path)}{colon}{weight}"
    return value


def existing_file(value: str) -> Path | None:
    """The file that a string names, also as "demo:NAME" or "embedded:NAME"; None if it is none.

    A bare word ("cosine") is never taken for a file that happens to be called so.
    """
    from acgd.media import audio

    if not re.search(r"[./:\\]", value):
        return None
    if value.startswith("embedded:"):
        value = str(WEIGHTS / f"{value.removeprefix('embedded:')}.safetensors")
    try:
        path = audio.resolve(value)
        return path if path.is_file() else None
    except (OSError, ValueError, UserError):
        return None


def fingerprint(path: Path) -> str:
    """A hash of a file's content; of its size, head and tail where it is a large checkpoint."""
    stat = os.stat(path)
    key = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    if stat.st_size < REMEMBERED:
        return hashed(path, stat.st_size)
    if key not in _hashes:
        _hashes[key] = hashed(path, stat.st_size)
    return _hashes[key]


def hashed(path: Path, size: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= WHOLE_FILE:
            digest.update(file.read())
        else:
            digest.update(file.read(WHOLE_FILE // 8))
            file.seek(-WHOLE_FILE // 8, os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()
