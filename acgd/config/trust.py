"""Which classes a config may name: acgd's own parts, and what its reader trusts by name.

A config is often somebody else's: a run's folder that was sent, words from a page. `_target_` may
name anything that Python can call, so nothing is called because a config says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from acgd.errors import UserError
from acgd.paths import HERE

PARTS = ("captioners", "describers", "diffusion", "encoders", "loggers", "prompts")  # rooms
DEPTH = 4  # of folders that hold configs: hydra/launcher/x.yaml is 3 deep
NAMED = "ACGD_TRUSTED"  # what a --config-dir names; a sweep's other processes inherit it


def check(cfg: Any, trust: Sequence[str] = (), how: str = "'trust=[{}]'") -> None:
    """UserError for a `_target_` that is neither a part of acgd nor of a package in `trust`.

    how: the word of the command that trusts {}.
    """
    trusted = {*trust, *filter(None, os.environ.get(NAMED, "").split(os.pathsep))}
    for key, target in targets(cfg):
        if not isinstance(target, str):
            raise UserError(f"{key}={target!r}: must be the name of a class")
        parents = {target[: at.start()] for at in re.finditer(r"\.|\Z", target)}
        if not is_part(target) and not parents & trusted:
            package = target.partition(".")[0]
            raise UserError(
                f"{key}={target}: is no part of acgd and is not run; if you know and trust it, add "
                + how.format(target if package == "acgd" else package)
            )


def targets(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(key, what it names) of every `_target_` at any depth; null is none."""
    if isinstance(node, dict):
        for name, value in node.items():
            below = f"{key}.{name}" if key else str(name)
            if name == "_target_":
                if value is not None:
                    yield below, value
            else:
                yield from targets(value, below)
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from targets(value, f"{key}.{i}")


@cache
def is_part(target: str) -> bool:
    """Whether a name is that of a class that stands in one of acgd's own files for parts.

    Not of one that such a file only imports: acgd.loggers.worker.subprocess.Popen is none.
    """
    match = re.fullmatch(rf"acgd\.((?:{'|'.join(PARTS)})(?:\.\w+)*)\.([A-Z]\w*)", target)
    if not match:
        return False
    path = HERE.joinpath(*match[1].split(".")).with_suffix(".py")
    if not path.is_file():
        return False
    return bool(re.search(rf"^class {match[2]}\b", path.read_text(encoding="utf-8"), re.M))


def trust_folder(folder: Path) -> None:
    """Trust the classes that the configs of a folder name: whoever gives it as theirs does."""
    names = set(filter(None, os.environ.get(NAMED, "").split(os.pathsep)))
    for path in (path for depth in range(DEPTH) for path in folder.glob("*/" * depth + "*.yaml")):
        text = path.read_text(encoding="utf-8", errors="replace")
        names |= set(re.findall(r"""["']?_target_["']?\s*:\s*["']?([\w.]+)""", text))
    os.environ[NAMED] = os.pathsep.join(sorted(names))
