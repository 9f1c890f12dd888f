"""Where things lie: the package, its weights, its configs."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "weights"
CONCEPTS = WEIGHTS / "concepts.csv"  # what the embedded models know, each with its names and emoji
DEMO = HERE / "demo"  # sounds that come with the package
IN_REPOSITORY = (HERE.parent / "pyproject.toml").is_file() and (HERE.parent / "conf").is_dir()
CONF = HERE.parent / "conf" if IN_REPOSITORY else HERE / "conf"


def command() -> str:
    """How acgd is called from here: as a file in the repository's folder, else by its name."""
    here = IN_REPOSITORY and Path.cwd() == HERE.parent
    return "python run.py" if here else "acgd"
