"""The house's plan: a room uses only what stands below it, and the root holds six files."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

ROOMS = [  # from the ground up; a room may use those before it
    "errors",
    "paths",
    "types",
    "atomic_files",
    "config",
    "media",
    "models",
    "checkpoints",
    "encoders",
    "prompts",
    "describers",
    "captioners",
    "diffusion",
    "diffusion.guidance",
    "diffusion.samplers",
    "runs",
    "loggers",
    "evaluation",
    "report",
    "pipeline",
    "sweep",
    "sweep.launchers",
    "app",
    "commands",
    "training.data",
    "training",
]
FILES = sorted((ROOT / "acgd").rglob("*.py"))


def room(module: str) -> str:
    """The room of a dotted module below acgd, the longest that is in the plan."""
    parts = module.removeprefix("acgd.").split(".")
    names = [".".join(parts[:n]) for n in (2, 1)]
    return next((name for name in names if name in ROOMS), "")


def imports(path: Path) -> set[str]:
    """The modules of acgd that a file imports anywhere, also late and for type checking."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "acgd":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("acgd.")}
    return found - {"acgd.__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "acgd")))
def test_a_room_uses_only_what_stands_below_it(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    if path.parent == ROOT / "acgd" and path.stem in ("__init__", "__main__"):
        return  # the faces: they stand on all of it
    own = room(module)
    assert own, f"{module} is in no room of the plan"
    used = {room(name) for name in imports(path)} - {own}
    above = [name for name in used if not name or ROOMS.index(name) > ROOMS.index(own)]
    assert not above, f"{module} uses {above}"


def test_the_root_holds_at_most_six_files():
    assert len(list((ROOT / "acgd").glob("*.py"))) <= 6
