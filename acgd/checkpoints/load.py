"""Weights from files: where they are looked for, what is read, and strict loading.

A source is written as "embedded:NAME" (shipped in acgd/weights), as a path, or as the name of a
file in the cache folder, $ACGD_CACHE or ~/.cache/acgd, where `acgd fetch` puts the published
ones. Files are .pt (read with weights_only=True), TorchScript archives (OpenAI's CLIP files, whose
code is not run) or .safetensors. Large files are mapped: a tensor's bytes are read when they are
used, and memory holds one copy. What can be wrong with them ends in a UserError of one line.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import pickle
import zipfile
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from acgd.checkpoints import registry, safetensors_twin, torchscript
from acgd.checkpoints.harmless import refused, types_allowed
from acgd.checkpoints.identify import looks_like, other_kind
from acgd.checkpoints.registry import cache_dir
from acgd.checkpoints.unwrap import unwrap
from acgd.errors import UserError, first_words
from acgd.paths import WEIGHTS

M = TypeVar("M", bound=nn.Module)
BROKEN = (
    SafetensorError,
    RuntimeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
SCRIPT_EXTRAS = ("input_resolution", "context_length", "vocab_size")  # integers, no weights


def locate(source: str | Path) -> Path:
    """The file of a source; a UserError says where to put it if it is not there."""
    source = str(source)
    if source.startswith("embedded:"):
        name = source.removeprefix("embedded:")
        path = WEIGHTS / f"{name}.safetensors"
        if not path.is_file():
            raise UserError(f"no embedded weights {name!r}: {path} is not there")
        return path
    path = Path(source).expanduser()
    cached = len(path.parts) == 1 or registry.named(source)
    places = [path, cache_dir() / path] if cached else [path]
    for place in places:
        if place.is_file():
            return place
    raise registry.missing(source, places[-1].absolute())


def load_state(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU and in the file's own dtypes.

    What trainers put around them (see `unwrap`) is taken off; `key` chooses among several.
    """
    path = locate(path)
    try:
        # a twin holds what is chosen without a key
        quick = (
            path if path.suffix == ".safetensors" else None if key else safetensors_twin.find(path)
        )
        state = safetensors_twin.read(quick) if quick else read_pickle(path)
    except (OSError, *BROKEN) as error:
        raise UserError(f"{path}: {why(path, error)}") from None
    return unwrap(state, path, key)


def why(path: Path, error: BaseException) -> str:
    """Why a file could not be read, and what to do."""
    if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a seek before the start
        return f"cannot be read ({error.strerror or error})"
    if kind := other_kind(path):
        return f"{kind}; fetch it again"
    if strange := refused(error):
        return (
            f"beside weights it holds {strange}, which is not read because it could run code; "
            "save the weights alone where it comes from: torch.save(model.state_dict(), ...)"
        )
    message = first_words(Exception(str(error).rpartition("WeightsUnpickler error: ")[2]))
    return f"truncated, or no weights file that can be read safely ({message}); fetch it again"


def read_pickle(path: Path) -> Any:
    """A torch.save file, or the state dict of a TorchScript archive without its integers."""
    with torch.serialization.safe_globals(list(types_allowed())):
        if not zipfile.is_zipfile(path):  # the format before torch 1.6, or broken
            return torch.load(path, map_location="cpu", weights_only=True)
        with zipfile.ZipFile(path) as archive:
            scripted = torchscript.is_archive(archive.namelist())
        if not scripted:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    state = torchscript.state_dict(path)
    return {key: value for key, value in state.items() if key not in SCRIPT_EXTRAS}


def convert(path: str | Path) -> Path:
    """Write a file's tensors beside it as FILE.safetensors, which is then read in its place."""
    path = locate(path)
    return path if path.suffix == ".safetensors" else safetensors_twin.write(load_state(path), path)


def read_config(path: str | Path) -> dict:
    """The architecture that a .safetensors file carries as JSON under "config"; else {}."""
    path = locate(path)
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("config", "{}"))
    except (*BROKEN, OSError) as error:
        kind = other_kind(path) or f"truncated or not a safetensors file ({first_words(error)})"
        raise UserError(f"{path}: {kind}; fetch it again") from None


def fingerprint(path: str | Path) -> str:
    """What tells a weights file from others: a hash of its size and its first megabyte."""
    path = locate(path)
    with open(path, "rb") as file:
        head = file.read(2**20)
    return hashlib.sha256(str(path.stat().st_size).encode() + head).hexdigest()[:16]


class Unfilled(TorchFunctionMode):
    """Modules made under it draw no random weights: their memory stays untouched until loaded.

    The meta device would do the same, but a single sum on it imports torch's compiler (1.5 s).
    """

    DRAWS = (
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.kaiming_uniform_,
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def empty(make: Callable[..., M], path: str | Path, given: dict) -> M:
    """A module without weights, for a file's tensors to be loaded into with assign=True.

    Its architecture is the one that the file carries, with what is `given` going before it; a
    UserError says when that is another kind of model's.
    """
    carried = read_config(path)
    accepted = inspect.signature(make).parameters
    if strange := [key for key in carried if key not in accepted]:
        raise UserError(
            f"{path}: these are another model's weights: {make.__name__} has no {listed(strange)}"
        )
    with Unfilled():
        return make(**{**carried, **given})


def load_into(
    module: M,
    state: dict[str, Tensor],
    source: str | Path,
    ignore: Sequence[str] = (),
    assign: bool = False,
    device: str | torch.device | None = None,
    release: bool = False,
    layout: torch.memory_format = torch.preserve_format,
) -> M:
    """Load strictly, converting to the module's dtypes; a UserError names what does not fit, and
    weights that are no finite numbers.

    Keys that fit a pattern of `ignore` may be missing or be too many. With `assign`, and
    always on the meta device, the module takes the file's tensors as its own; with `device` it
    takes them over there, one after the other, those of four dimensions in this `layout`.
    `release` empties `state` on the way, so that what was converted is held once. A module made by
    `empty` and brought to its dtypes before (a half-precision torso, say) never holds the file's.
    """
    expected = module.state_dict()
    kept = lambda key: not any(fnmatchcase(key, pattern) for pattern in ignore)  # noqa: E731
    faults = {
        "missing": [k for k in expected if k not in state and kept(k)],
        "unexpected": [k for k in state if k not in expected and kept(k)],
        "of another shape": [
            f"{k} {tuple(state[k].shape)} for {tuple(expected[k].shape)}"
            for k in expected
            if k in state and state[k].shape != expected[k].shape
        ],
    }
    if any(faults.values()):
        what = "; ".join(f"{len(v)} {name} ({listed(v)})" for name, v in faults.items() if v)
        guess = looks_like(state)
        raise UserError(
            f"{source}: these weights do not fit {type(module).__name__} as configured: {what}"
            + (f"; the file looks like {guess}" if guess else "")
        )
    take = state.pop if release else state.__getitem__
    fitting = {}
    for k in (k for k in expected if k in state):
        own = layout if expected[k].ndim == 4 else torch.preserve_format
        fitting[k] = take(k).to(device=device, dtype=expected[k].dtype, memory_format=own)
    check_finite(fitting, module, source)
    assign = assign or device is not None or any(t.is_meta for t in expected.values())
    module.load_state_dict(fitting, strict=False, assign=assign)
    return module


def check_finite(state: dict[str, Tensor], module: nn.Module, source: str | Path) -> None:
    """UserError where weights hold NaN or infinity: they would make pictures of nothing.

    Their least and greatest numbers say so, at the speed of memory and in one answer for all. A
    mask among the buffers may hold infinity.
    """
    names = [k for k, v in state.items() if v.is_floating_point() and v.numel() and not v.is_meta]
    if not names:
        return
    extremes = torch.stack([end.float() for k in names for end in torch.aminmax(state[k])])
    ends = dict(zip(names, extremes.cpu().unflatten(0, (-1, 2)), strict=True))
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    wrong = [k for k, v in ends.items() if v.isnan().any() or (k in parameters and v.isinf().any())]
    if wrong:
        raise UserError(
            f"{source}: damaged weights: {len(wrong)} of {len(state)} tensors hold NaN or infinity"
            f" ({listed(wrong)}); fetch the file again, or save it from before the training broke"
        )


def listed(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
