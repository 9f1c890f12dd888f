"""What is chosen on the page as words of a command line, and which of them a stranger may say."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from acgd.checkpoints import registry
from acgd.config import keys
from acgd.config.compose import compose
from acgd.config.words import quoted
from acgd.errors import UserError
from acgd.paths import CONF, DEMO, home
from acgd.runs.run import resolve

NAME = "app"  # outputs/app/
PREVIEWS = 12  # of a picture, on its way
# What may be said from another machine: nothing that is a path or leads to one.
GROUPS = ("sampler", "describer", "captioner", "guidance/schedule")
OPEN = ("guidance.", "sampler.", "model.style", "heard", "picture", "skip_steps", "twin", "concept",
        "prompt.offset", "prompt.duration", "prompt.text_share", "prompt.weight", "describer.share",
        "describer.lean", "describer.beam_size", "describer.top_k", "preview_every", "force",
        "batch_size")  # fmt: skip
PACKAGES = {"openclip": "open_clip"}  # what an encoder comes from that fetches its own weights
PLAIN = re.compile(r"[\w., +\-\[\]]*")  # no quotes, no slashes, no interpolation
CLOSED = re.compile(r"(^|[\s\[,])\.\.?($|[\s\],])")


def installed(group: str) -> list[str]:
    """The parts of a group whose weights are here, "tiny" first."""
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    return sorted(filter(lambda name: is_here(group, name), names), key=lambda n: n != "tiny")


def is_here(group: str, name: str) -> bool:
    if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
        return False
    node = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
    if "defaults" in node:  # only Hydra can put it together, in a tenth of a second
        node = resolve(compose([f"{group}={name}"]))[group]
    if "download" in node:  # from a folder that nobody named yet, or the hub
        return False
    return registry.absent({group: node}) is None


def demos() -> list[str]:
    return sorted(path.stem for path in DEMO.iterdir() if path.suffix == ".ogg")


def styles() -> list[str]:
    return list(resolve(compose())["model"]["styles"])


class Kept:
    """A sound as the runs name it: a demo sound, or a copy of an upload among the runs,
    outputs/app/sounds/, in a folder that its content names."""

    def __init__(self, sound: str, outputs: str | Path):
        self.name, self.is_new = sound, False
        if sound.startswith("demo:"):
            return
        source = Path(sound)
        digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
        target = home(outputs, NAME) / "sounds" / digest / source.name
        self.name, self.is_new = str(target), not target.exists()
        if self.is_new:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def drop(self) -> None:
        """Take a new copy away again, where no run names it."""
        if self.is_new:
            Path(self.name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another file of the same content lies there
                Path(self.name).parent.rmdir()


def to_hear(sound: str, chosen: dict[str, Any], outputs: str | Path) -> list[str]:
    """The words for what is heard in a sound."""
    parts = [f"{group}={chosen[group]}" for group in ("model", "encoder") if chosen.get(group)]
    return [*common(outputs), *parts, f"prompt.path={value(sound)}"]


def common(outputs: str | Path) -> list[str]:
    elsewhere = [f"outputs={value(str(outputs))}"] if str(outputs) != "outputs" else []
    return [*elsewhere, f"name={NAME}", "logger=none"]


def to_draw(
    sound: str | None, text: str, chosen: dict[str, Any], more: str, outputs: str | Path
) -> list[str]:
    """The words for a picture of a sound, of words, or of both.

    chosen: model, encoder, film, text_share, style, seed, seeds, steps, clip, cfg_scale, those of a
    film its experiment's; more: overrides
    as they are typed, a line or several. UserError where there is neither a sound nor a word.
    """
    text = " ".join(text.split())
    if not sound and not text:
        raise UserError("give it a sound, or words, or both")
    if not sound and chosen["film"]:
        raise UserError("a film is of a sound: give it one")
    kind = "audio" if not text else "mixed" if sound else "text"
    words = ["experiment=film"] if chosen["film"] else []
    words += [*common(outputs), f"model={chosen['model']}", f"encoder={chosen['encoder']}"]
    words += [f"prompt={kind}"]
    words += [f"prompt.path={value(sound)}"] if sound else []
    words += [f"prompt.text={quoted(text)}"] if text else []
    words += [f"prompt.text_share={chosen['text_share']:g}"] if kind == "mixed" else []
    first, count, steps = int(chosen["seed"]), int(chosen["seeds"]), int(chosen["steps"])
    words += [f"seed=[{','.join(str(first + i) for i in range(count))}]"]
    if chosen["model"] == "tiny" and chosen["style"] != "each seed its own":
        words += [f"model.style={chosen['style']}"]
    if chosen["film"]:
        return [*words, *typed(more)]
    words += [f"sampler.steps={steps}", f"preview_every={max(1, steps // PREVIEWS)}"]
    words += [f"guidance.clip={chosen['clip']:g}", f"guidance.cfg_scale={chosen['cfg_scale']:g}"]
    return [*words, *typed(more)]


def value(text: str) -> str:
    """A path as a value, in quotes where Hydra wants them."""
    return text if re.fullmatch(r"(demo:)?[\w./-]+", text) else quoted(text)


def typed(more: str) -> list[str]:
    """The overrides in a field, as a shell would take them apart."""
    try:
        words = shlex.split(more, comments=True)
    except ValueError as error:
        raise UserError(f"{more}: {error}") from None
    for word in words:
        if "=" not in word.lstrip("+~"):
            raise UserError(f"{word}: settings are KEY=VALUE, as guidance.tv=100")
    return words


def refuse_paths(words: Sequence[str]) -> None:
    """UserError for an override that somebody on another machine may not give: one that names a
    file, a class or another folder."""
    for word in words:
        key, _, value = word.partition("=")
        known = key in keys.TABLE and key.startswith(OPEN)
        part = key in GROUPS and (CONF / key / f"{value}.yaml").is_file() and "/" not in value
        safe = PLAIN.fullmatch(value) and not CLOSED.search(value)
        if not (part or (known and safe)):
            raise UserError(
                f"{word}: from another machine only numbers and parts of acgd's can be set"
            )


def completions(remote: bool) -> list[str]:
    """Key names for the field of everything else."""
    names = [key for key in keys.TABLE if not remote or key.startswith(OPEN)]
    return sorted(names)
