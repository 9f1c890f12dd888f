"""Hold the package to golden files: python scripts/verify_reference.py DIR.

Each pair NAME.json, NAME.npz in DIR is recomputed by the module in tests/reference that knows its
kind, from the JSON's own description, and compared array by array. A module has
    KINDS: tuple[str, ...]               words that name the files it knows ("unet", "unet_seed2")
    compute(meta, arrays) -> Iterator[tuple[str, array]]   every array of the file, by name; a
                                         string in place of an array says what it would need
and may have
    checks(meta) -> Iterator[tuple[str, bool]]   what the JSON says that is not an array
    CASE_DEPTH: int = 1                  how many leading parts of an array's name make a row
`meta` is the JSON, with the folder that it lies in as "folder".

The exit status is 0 only if every case was checked and held. --allow-missing also allows cases that
could not be checked, for want of a photo or a recording, of arrays, or of a module that knows them.
--device cuda computes there, in float32 throughout: the UNet's and CLIP's files can be, by --only.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import re
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT.parent / "tests"), str(ROOT.parent)]


@dataclass
class Case:
    """One row of the table: arrays of a file that share the start of their names."""

    file: str
    name: str
    error: float = 0.0  # of the array that is worst in terms of its bound
    bound: float = 0.0
    faults: list[str] = field(default_factory=list)
    note: str = ""  # why something was not compared
    compared: int = 0

    def add(self, array: str, error: float, bound: float) -> None:
        if not error <= bound:  # NaN fails too
            self.faults.append(f"{array}: error {error:.3g}, bound {bound:.3g}")
        if not _share(error, bound) <= _share(self.error, self.bound):
            self.error, self.bound = error, bound
        self.bound = self.bound or bound
        self.compared += 1


def _share(error: float, bound: float) -> float:
    return error / bound if bound else (0.0 if error == 0 else float("inf"))


def error(got, ref: np.ndarray) -> float:
    """||got - ref|| / ||ref|| in float64; for integers and strings the share that differs."""
    got = np.asarray(got.detach().cpu() if isinstance(got, torch.Tensor) else got)
    if got.shape != ref.shape:
        return float("inf")
    if ref.dtype.kind not in "fc":
        return float(np.mean(got != ref)) if ref.size else 0.0
    wide = np.complex128 if ref.dtype.kind == "c" else np.float64
    difference = np.linalg.norm((got.astype(wide) - ref.astype(wide)).ravel())
    return float(difference / np.linalg.norm(ref.astype(wide).ravel())) if difference else 0.0


def bound(meta: dict, name: str, ref: np.ndarray) -> float:
    """The first pattern that fits the array's name decides; integers are exact."""
    if ref.dtype.kind not in "fc":
        return 0.0
    bounds = meta["tolerances"]["bounds"]
    return next((b for pattern, b in bounds.items() if fnmatchcase(name, pattern)), 0.0)


def modules() -> tuple[dict[str, ModuleType], dict[str, str]]:
    """Modules by the kinds that they know, and the reasons of those that cannot be imported."""
    import reference

    known, broken = {}, {}
    for info in pkgutil.iter_modules(reference.__path__):
        try:
            module = importlib.import_module(f"reference.{info.name}")
        except ImportError as problem:
            broken[info.name] = str(problem)
            continue
        known.update(dict.fromkeys(getattr(module, "KINDS", ()), module))
    return known, broken


def kind_of(stem: str, kinds) -> str | None:
    """The longest kind that the file's name contains as a word: 'hidden-unet_seed2' is 'unet'."""
    fits = [
        k for k in kinds if re.search(rf"(?<![a-z0-9]){re.escape(k)}(?![a-z0-9])", stem.lower())
    ]
    return max(fits, key=len, default=None)


def verify(path: Path, module: ModuleType) -> list[Case]:
    """The rows of one pair; `path` is that of the JSON."""
    meta = json.loads(path.read_text(encoding="utf-8")) | {"folder": path.parent}
    cases: dict[str, Case] = {}
    depth = getattr(module, "CASE_DEPTH", 1)

    def case(name: str, depth: int = depth) -> Case:
        key = ".".join(name.split(".")[:depth])
        return cases.setdefault(key, Case(path.stem, key))

    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        missing = dict.fromkeys([*meta.get("index", ()), *arrays.files])
        problem = ""
        try:
            for name, value in module.compute(meta, arrays):
                if name not in missing or name not in arrays:
                    continue
                del missing[name]
                if isinstance(value, str):
                    case(name).note = f"{value}, not checked"
                else:
                    ref = arrays[name]
                    case(name).add(name, error(value, ref), bound(meta, name, ref))
            for name, holds in getattr(module, "checks", lambda meta: ())(meta):
                case(name, 1).add(name, 0.0 if holds else 1.0, 0.0)
        except Exception as exception:  # one file's failure must not hide the other files' rows
            traceback.print_exc()
            problem = f" ({type(exception).__name__}: {exception})"
        for name in missing:
            case(name).faults.append(f"{name}: not computed{problem}")
            case(name).error = float("inf")
    if problem:  # also where every array was compared before it
        cases[""] = Case(path.stem, "", error=float("inf"), faults=[f"stopped{problem}"])
    if not cases:
        return [Case(path.stem, "", note="no numbers in it, not checked")]
    return list(cases.values())


def verify_folder(folder: Path, only: str = "*") -> Iterator[Case]:
    """The rows of every JSON in the folder."""
    known, broken = modules()
    for name, reason in broken.items():
        yield Case("", name, faults=[f"reference/{name}.py cannot be imported: {reason}"])
    for path in sorted(folder.glob("*.json")):
        if not fnmatchcase(path.stem, only):
            continue
        kind = kind_of(path.stem, known)
        if kind is None:
            yield Case(path.stem, "", note="unknown kind, not checked")
        elif not path.with_suffix(".npz").exists():
            yield Case(path.stem, "", note="no arrays (.npz) beside it, not checked")
        else:
            yield from verify(path, known[kind])
    for path in sorted(folder.glob("*.npz")):
        if not path.with_suffix(".json").exists() and fnmatchcase(path.stem, only):
            yield Case(path.stem, "", note="no description (.json) beside it, not checked")


def show(case: Case) -> None:
    numbers = ""
    if case.compared or case.faults:
        tolerance = f"{case.bound:.0e}" if case.bound else "exact"
        ok = "FAILED" if case.faults else "ok"
        numbers = f"{case.error:>10.2e} {tolerance:>10}  {ok}  "
    print(f"{case.file:<22} {case.name:<30} {numbers}{case.note}".rstrip(), flush=True)
    for fault in case.faults[:8]:
        print(f"    {fault}")
    if len(case.faults) > 8:
        print(f"    and {len(case.faults) - 8} more")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--only", default="*", help="pattern of file names, e.g. 'unet*'")
    parser.add_argument(
        "--allow-missing", action="store_true", help="cases not checked are no failure"
    )
    parser.add_argument("--device", default="cpu", help="where models compute: cpu, cuda")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is not a folder")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    print(f"{'file':<22} {'case':<30} {'error':>10} {'tolerance':>10}  ok")
    count: Counter[str] = Counter()
    with torch.device(options.device):
        for case in verify_folder(options.folder, options.only):
            show(case)
            count["failed" if case.faults else "not checked" if case.note else "ok"] += 1
    print(f"{count['ok']} cases ok, {count['failed']} failed, {count['not checked']} not checked")
    if not count.total():
        print(f"nothing to check: no golden files in {options.folder}")
    bad = count["failed"] + (0 if options.allow_missing else count["not checked"])
    return 1 if bad or not count.total() else 0


if __name__ == "__main__":
    # Before MKL's first product: the one of its ways to add up that is the same on every processor.
    # Rounding decides on which side of a kink the guidance of two cases falls.
    os.environ.setdefault("MKL_CBWR", "COMPATIBLE")
    sys.exit(main())
