"""Where things lie: the package, its weights, its configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from acgd.errors import UserError, printable

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "weights"
CONCEPTS = WEIGHTS / "concepts.csv"  # what the embedded models know, each with its names and emoji
NAMES = WEIGHTS / "names.txt"  # what else they draw recognisably
DEMO = HERE / "demo"  # sounds that come with the package
IN_REPOSITORY = (HERE.parent / "pyproject.toml").is_file() and (HERE.parent / "conf").is_dir()
CONF = HERE.parent / "conf" if IN_REPOSITORY else HERE / "conf"


def home(outputs: Any, name: Any) -> Path:
    """The folder of all runs of a name: OUTPUTS/NAME, "~" spelled out.

    UserError for a name that would lead out of `outputs`, and for what names no folder.
    """
    for key, value in (("outputs", outputs), ("name", name)):
        text = str(value)
        if not isinstance(value, str | Path | int) or isinstance(value, bool) or not text.strip():
            raise UserError(f"{key}={value}: must be the name of a folder")
        if printable(text) != text:
            raise UserError(f"{key}={value}: holds letters that cannot be seen; choose another")
    if Path(str(name)).is_absolute() or ".." in Path(str(name)).parts or str(name)[0] == "~":
        raise UserError(f"name={name}: must lie in the folder of outputs={outputs}, not elsewhere")
    return at_home(str(outputs)) / str(name)


def at_home(text: str) -> Path:
    """ "~/x" and "~name/x" spelled out; a "~" that stands for nobody's home is a letter."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def command() -> str:
    """How acgd is called from here: as a file in the repository's folder, else by its name."""
    here = IN_REPOSITORY and Path.cwd() == HERE.parent
    return "python run.py" if here else "acgd"
