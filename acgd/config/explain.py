"""What went wrong while Hydra composed, in one line that a person can act on."""

from __future__ import annotations

import difflib
import re
from errno import EDQUOT, ENOSPC

from omegaconf import DictConfig

from acgd.config.compose import compose
from acgd.errors import UserError, causes, one_line

EXTRAS = {"submitit_local": "slurm", "submitit_slurm": "slurm"}  # plugin -> extra of another name


PLUGINS = ("joblib", "ray", "optuna", *EXTRAS)


def explain(error: BaseException) -> str:
    """An error in one line a person can act on."""
    if isinstance(error, UserError):
        return str(error)
    line = one_line(error)
    if type(error).__module__.startswith(("hydra", "omegaconf")):
        if own := next((one for one in causes(error) if isinstance(one, UserError)), None):
            return str(own)
        if "override_grammar" in line:
            what = line.split(" ^ ")[0].removeprefix("LexerNoViableAltException: ")
            return f"{what}: Hydra cannot read this; give the value its own quotes: KEY='\"...\"'"
        return plugin(line) or line + suggestion(line)
    if isinstance(error, OSError):
        said = f"{error.filename}: {error.strerror}" if error.filename else line
        again = "; make room, then give the same command again: it goes on from here"
        return said + again * (error.errno in (ENOSPC, EDQUOT))
    return f"{type(error).__name__}: {line} (debug=true shows where)"


def plugin(line: str) -> str:
    """For a launcher or sweeper whose package is missing, how to get it; else ""."""
    wrong = re.search(r"[Cc]ould not (?:find|load) '(hydra/(?:launcher|sweeper))/(\w+)'", line)
    if not wrong or wrong[2] not in PLUGINS:
        return ""
    extra = EXTRAS.get(wrong[2], wrong[2])
    return f'{wrong[1]}={wrong[2]} is not installed: pip install -e ".[{extra}]"'


def suggestion(line: str) -> str:
    """For an unknown key, the known ones that look like it."""
    wrong = re.search(r"Could not override '([^']+)'", line)
    if not wrong:
        return ""
    known = dotted_keys(compose())
    near = difflib.get_close_matches(wrong[1], known, n=3)
    return f" (did you mean {', '.join(near)}?)" if near else ""


def dotted_keys(node: DictConfig, prefix: str = "") -> list[str]:
    """Every key of a config, "guidance.clip" for nested ones."""
    keys = []
    for key in node:
        keys.append(f"{prefix}{key}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing()):
            keys += dotted_keys(child, f"{prefix}{key}.")
    return keys
