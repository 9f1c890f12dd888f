"""The config that some overrides make, composed outside Hydra's own command line."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from acgd.config.trust import trust_folder
from acgd.errors import UserError
from acgd.paths import CONF, home

if TYPE_CHECKING:
    import yaml

LARGEST = 2**20  # bytes of a config of one's own, and its parts with all aliases written out

# in conf/: ${acgd_home:${outputs},${name}}
OmegaConf.register_new_resolver("acgd_home", lambda *given: str(home(*given)), replace=True)


def compose(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> DictConfig:
    """The composed config. `config_dir`: a folder of configs of one's own, as --config-dir.

    Raises what Hydra raises, and UserError where the folder is none.
    """
    import hydra

    words = list(overrides)
    refuse_no_part(words)
    if config_dir is not None:
        words.append(f"hydra.searchpath=['file://{own_parts(config_dir)}']")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", words)


def refuse_no_part(words: Sequence[str]) -> None:
    """UserError for GROUP=null and the like, which Hydra refuses without saying which."""
    for word in words:
        group, equals, name = word.partition("=")
        if equals and re.fullmatch(r"null|true|false|[-+.\d]*|\{.*\}", name, re.I):
            parts = sorted(path.stem for path in (CONF / group).glob("*.yaml")) if group else []
            if parts and group != "experiment":
                none = f"; {group}=none does without" * ("none" in parts)
                raise UserError(f"{word}: is no part; choose {group}={', '.join(parts)}{none}")


def own_parts(config_dir: str | Path) -> Path:
    """A folder of configs, whose `_target_`s are found in it, beside it and where one stands.

    What they name is trusted: giving the folder says so.
    """
    folder = Path(config_dir).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder")
    refuse_endless(folder)
    trust_folder(folder)
    places = [str(place) for place in (folder, folder.parent, Path.cwd())]
    sys.path.extend(place for place in places if place not in sys.path)
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # by a sweep's other processes
    known = [place for place in inherited if place]
    os.environ["PYTHONPATH"] = os.pathsep.join([*known, *(p for p in places if p not in known)])
    return folder


def refuse_endless(folder: Path) -> None:
    """UserError for a config whose aliases (*name) unfold to more than any config is, or never end.

    Hydra would unfold them. What cannot be read is Hydra's to say.
    """
    import yaml

    for path in sorted(folder.rglob("*.yaml")):
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise UserError(f"{path}: is no yaml file of at most {LARGEST // 2**20} MiB")
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            continue
        if unfolded(node, {}, ()) > LARGEST:
            raise UserError(f"{path}: its aliases (*) unfold without end; write out what they say")


def unfolded(node: yaml.Node | None, known: dict[int, float], above: tuple[int, ...]) -> float:
    """How many nodes a node is with its aliases written out; infinite where it holds itself."""
    if id(node) in above:
        return math.inf
    if node is None or isinstance(node.value, str):
        return 1
    if id(node) not in known:
        parts = [
            one for pair in node.value for one in (pair if isinstance(pair, tuple) else [pair])
        ]
        known[id(node)] = 1 + sum(unfolded(one, known, (*above, id(node))) for one in parts)
    return known[id(node)]


def config_dir_of(words: Sequence[str]) -> str | None:
    """The value of --config-dir or -cd among a command's words."""
    for at, word in enumerate(words):
        if word in ("--config-dir", "-cd"):
            return next(iter(words[at + 1 :]), None)
        if word.startswith("--config-dir="):
            return word.partition("=")[2]
    return None
