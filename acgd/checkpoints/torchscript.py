"""The weights in a TorchScript archive, read without running anything that the archive holds.

Such an archive (OpenAI's CLIP files) is a zip: ROOT/data.pkl holds the modules as nested objects,
ROOT/data/N the bytes of the tensors, ROOT/code/*.py the program. torch.jit.load compiles the
program to get at the tensors; here data.pkl goes through an unpickler that knows tensors and
plain records only, and of the program's text just the lists of parameter and buffer names are
read. Tensors are views of the mapped file: nothing is copied until it is used.
"""

from __future__ import annotations

import ast
import collections
import io
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LISTS = re.compile(r"^  (__parameters__|__buffers__) = (\[.*?\])$", re.MULTILINE)
CLASS = re.compile(r"^class (\w+)\(\w*\):\n((?:(?:  .*)?\n)*)", re.MULTILINE)


class Record:
    """An object of a class of the archive's: its attributes and nothing else."""

    kind = ""  # "__torch__.clip.model.CLIP"

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"{self.kind} has no attributes but {type(state)}")
        self.__dict__.update(state)


def is_archive(names: list[str]) -> bool:
    """Whether a zip with these members is a TorchScript archive."""
    return any(name.endswith("/constants.pkl") for name in names)


def state_dict(path: str | Path) -> dict[str, Tensor]:
    """What torch.jit.load(path).state_dict() has, in the file's dtypes, on the CPU.

    Raises pickle.UnpicklingError or ValueError for an archive that holds anything but tensors,
    numbers, strings and containers of them in its modules, and zipfile.BadZipFile.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(n for n in archive.namelist() if n.endswith("/data.pkl")).rpartition("/")[0]
        model = Reader(archive, root, path).load()
        names = tensor_names(archive, f"{root}/code/")
    tensors: dict[str, Tensor] = {}
    collect(model, "", names, tensors)
    return tensors


class Reader(pickle.Unpickler):
    """Unpickles ROOT/data.pkl; whatever is not in `find_class` is refused by its name."""

    def __init__(self, archive: zipfile.ZipFile, root: str, path: str | Path):
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive, self.root = archive, root
        size = Path(path).stat().st_size
        self.file = torch.UntypedStorage.from_file(str(path), False, size)

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return type(name, (Record,), {"kind": f"{module}.{name}"})
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        harmless = KNOWN.get((module, name))
        if harmless is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which holds no weights")
        return harmless

    def persistent_load(self, pid: tuple) -> tuple[torch.UntypedStorage, torch.dtype]:
        """The bytes of ("storage", dtype, record, device, count) as a view of the file."""
        kind, dtype, record, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"{kind} is no storage")
        member = self.archive.getinfo(f"{self.root}/data/{record}")
        size = count * dtype.itemsize
        if member.compress_type != zipfile.ZIP_STORED or size > member.file_size:
            raise pickle.UnpicklingError(f"{member.filename} has not {size} plain bytes")
        start = self.offset(member)
        return self.file[start : start + size], dtype

    def offset(self, member: zipfile.ZipInfo) -> int:
        """Where a member's bytes begin: behind its own header, whose extra field pads it."""
        file = self.archive.fp
        assert file is not None  # it is open
        file.seek(member.header_offset)
        name, extra = struct.unpack("<26xHH", file.read(30))
        return member.header_offset + 30 + name + extra


def rebuild_tensor(storage: tuple, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    data, dtype = storage
    return torch.empty(0, dtype=dtype).set_(data, offset, tuple(size), tuple(stride))


def rebuild_parameter(tensor: Tensor, *_: Any) -> Tensor:
    return tensor


def as_list(values: Any) -> list:
    return list(values)


def without_tag(value: Any, _: Any) -> Any:
    return value


KNOWN = {
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    ("torch.jit._pickle", "build_intlist"): as_list,
    ("torch.jit._pickle", "build_doublelist"): as_list,
    ("torch.jit._pickle", "build_boollist"): as_list,
    ("torch.jit._pickle", "build_tensorlist"): as_list,
    ("torch.jit._pickle", "restore_type_tag"): without_tag,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


def tensor_names(archive: zipfile.ZipFile, code: str) -> dict[str, set[str]]:
    """Of each class that lists them, the names of its parameters and buffers.

    A module may also hold tensors that are neither, which are no part of a state dict.
    """
    names = {}
    for member in archive.namelist():
        if member.startswith(code) and member.endswith(".py"):
            module = member.removeprefix(code).removesuffix(".py").replace("/", ".")
            for name, body in CLASS.findall(archive.read(member).decode("utf-8")):
                lists = dict(LISTS.findall(body))
                if "__buffers__" in lists:
                    listed = [ast.literal_eval(text) for text in lists.values()]
                    names[f"{module}.{name}"] = {one for each in listed for one in each}
    return names


def collect(
    module: Any, prefix: str, names: dict[str, set[str]], tensors: dict[str, Tensor]
) -> None:
    """Put the tensors below `module` into `found` under their dotted names."""
    for name, value in vars(module).items():
        if isinstance(value, Record):
            collect(value, f"{prefix}{name}.", names, tensors)
        elif isinstance(value, Tensor) and name in names.get(module.kind, (name,)):
            tensors[prefix + name] = value
