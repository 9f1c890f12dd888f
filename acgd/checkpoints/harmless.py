"""What a checkpoint may hold beside tensors: types that carry values and run nothing.

torch.load reads with weights_only=True, which knows tensors and plain containers. Trainers also
keep numpy's numbers, command-line Namespaces, paths, dates and their configs in the same file.
None of these does anything but hold what it is given; all else is refused by its name.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import re
import types
from functools import cache
from typing import Any

import numpy as np
from omegaconf import DictConfig, ListConfig, base, nodes

REFUSED = re.compile(r"(?:GLOBAL|class|type) ([\w.]+\.[\w.]+)")
PLAIN = (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, slice)
HOLDERS = (
    argparse.Namespace,
    types.SimpleNamespace,
    collections.OrderedDict,
    collections.Counter,
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    datetime.timezone,
)
PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")
CONFIGS = (
    DictConfig,
    ListConfig,
    base.Metadata,
    base.ContainerMetadata,
    nodes.AnyNode,
    nodes.StringNode,
    nodes.IntegerNode,
    nodes.FloatNode,
    nodes.BooleanNode,
    Any,
)


def as_dict(*_: Any) -> dict:
    """What stands for a defaultdict, which torch's reader cannot fill."""
    return {}


def as_list(*_: Any) -> list:
    """What stands for a deque."""
    return []


@cache
def types_allowed() -> tuple:
    """For torch.serialization.safe_globals: a type, or (what stands for it, its name there)."""
    scalars = {type(np.dtype(name)) for name in "?bhilqBHILQefdFDSUO"}
    arrays = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    names = ("_reconstruct", "scalar")
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    old = [
        (what, f"{module}.{name}")
        for what, name in zip(arrays, names, strict=True)
        for module in modules
    ]
    # a path of another system cannot even be made here
    paths = [
        (pathlib.PurePosixPath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in PATHS
    ]
    plainer = ((as_dict, "collections.defaultdict"), (as_list, "collections.deque"))
    return (*plainer, *PLAIN, *HOLDERS, *CONFIGS, np.ndarray, np.dtype, *scalars, *old, *paths)


def refused(error: BaseException) -> str | None:
    """The type that a file was refused for; None for another kind of error."""
    match = REFUSED.search(str(error)) if "nsupported" in str(error) else None
    return match[1] if match else None
