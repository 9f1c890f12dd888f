"""What went wrong while Hydra composed, in one line that a person can act on."""

from __future__ import annotations

import difflib
import re
from errno import EDQUOT, ENOSPC

from omegaconf import DictConfig

from acgd.config.compose import compose
from acgd.config.keys import TABLE
from acgd.errors import UserError, causes, one_line, torchvision_apart
from acgd.paths import CONF

EXTRAS = {"submitit_local": "slurm", "submitit_slurm": "slurm"}  # plugin -> extra of another name


PLUGINS = ("joblib", "ray", "optuna", *EXTRAS)


def explain(error: BaseException) -> str:
    """An error in one line a person can act on."""
    if isinstance(error, UserError):
        return str(error)
    if apart := torchvision_apart(error):
        return str(apart)
    line = one_line(error)
    if type(error).__module__.startswith(("hydra", "omegaconf")):
        if user_error := next((one for one in causes(error) if isinstance(one, UserError)), None):
            return str(user_error)
        if "override_grammar" in line:
            what = line.split(" ^ ")[0].removeprefix("LexerNoViableAltException: ")
            return f"{what}: Hydra cannot read this; give the value its own quotes: KEY='\"...\"'"
        line = re.sub(r"^\w+ raised while resolving interpolation: ", "", line)
        return plugin(line) or unknown(line) or line
    if "Config group override must be a string" in line:  # Hydra's, of @=1
        return "a group's part is chosen by its name: GROUP=NAME, as sampler=ddim"
    if isinstance(error, OSError):
        said = f"{error.filename}: {error.strerror}" if error.filename else line
        again = "; make room, then give the same command again: it resumes here"
        return said + again * (error.errno in (ENOSPC, EDQUOT))
    return f"{type(error).__name__}: {line} (debug=true shows where)"


def plugin(line: str) -> str:
    """For a launcher or sweeper whose package is missing, how to get it; else ""."""
    wrong = re.search(r"[Cc]ould not (?:find|load) '(hydra/(?:launcher|sweeper))/(\w+)'", line)
    if not wrong or wrong[2] not in PLUGINS:
        return ""
    extra = EXTRAS.get(wrong[2], wrong[2])
    return f'{wrong[1]}={wrong[2]} is not installed: pip install -e ".[{extra}]"'


def unknown(line: str) -> str:
    """For a key that the config does not have, the words that were meant; else ""."""
    wrong = re.search(r"Could not override '([^'@]+)'", line)
    if not wrong:
        return ""
    key = wrong[1]
    given = re.search(rf"\+{re.escape(key)}=(.*?)(?: Key '|$)", line)
    value = given[1] if given else "..."
    none = f"{key}={value}: there is no such key"
    if group := group_with(key, value):
        return f"{none}; did you mean {group}={value}?"
    if parts := parts_with(key):
        group = key.rpartition(".")[0].replace(".", "/")
        others = f" (or {', '.join(parts[1:])})" if parts[1:] else ""
        return f"{none} here; did you mean {group}={parts[0]} {key}={value}?{others}"
    last = key.rpartition(".")[2]
    elsewhere = [one for one in TABLE if "." in one and one.rpartition(".")[2] == key]
    keys = dotted_keys(compose())
    if elsewhere and not any(name.rpartition(".")[2] == last for name in keys):
        group = elsewhere[0].split(".")[0]  # of a part that is not chosen here
        if parts := parts_with(elsewhere[0]):
            return f"{none}; did you mean {group}={parts[0]} {elsewhere[0]}={value}?"
    near = [name for name in keys if name.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(key, keys, n=3)
    return f"{none}; did you mean {', '.join(near[:3])}?" if near else f"{none}; see --cfg job"


def group_with(key: str, value: str) -> str:
    """The config group whose last name is the key's and that has a part of this name; or ""."""
    last = re.split(r"[./]", key)[-1]
    paths = sorted(CONF.glob(f"**/{last}/{value}.yaml")) if re.fullmatch(r"[\w-]+", value) else []
    return paths[0].parent.relative_to(CONF).as_posix() if paths else ""


def parts_with(key: str) -> list[str]:
    """The names of those parts of "prompt" that have the key "text", for "prompt.text"."""
    group, _, name = key.rpartition(".")
    paths = sorted(CONF.glob(f"{group.replace('.', '/')}/*.yaml")) if group and name else []
    line = re.compile(rf"^{re.escape(name)}:", re.M)
    parts = [path.stem for path in paths if line.search(path.read_text(encoding="utf-8"))]
    return sorted(parts, key=len)  # the plainest first: text before mixed


def dotted_keys(node: DictConfig, prefix: str = "") -> list[str]:
    """Every key of a config, "guidance.clip" for nested ones."""
    keys = []
    for key in map(str, node):
        keys.append(f"{prefix}{key}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing()):
            keys += dotted_keys(child, f"{prefix}{key}.")
    return keys
