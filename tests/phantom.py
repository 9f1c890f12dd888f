"""A GPU that is none: tensors that claim to be on a device, with their numbers on the CPU.

Inside `Phantom()` whole jobs run as on CUDA: what CUDA refuses (tensors of two devices, products
of two dtypes, a CPU generator for a device's tensor) is refused, and everything that crosses
between the CPU and the device is counted by the line of acgd that asked for it:

    upload   CPU to device
    wait     of these: the CPU waits for the device, for want of non_blocking or pinned memory
    read     device to CPU; the CPU waits for the device
    kernel   work on the device

`Phantom(shapes=True)` has no numbers at all, for models that would be too large: what is uploaded
becomes a shape, and what is read is zeros. It relies on private parts of torch, see `TORCH`.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch.utils import _mode_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

TORCH = "2.13."  # the version that this was written for
NAME = "cudaphantom"  # begins as CUDA's does, for what asks device.startswith("cuda")
DEVICE = f"{NAME}:0"
SMALL = 2**16  # bytes that CUDA copies from memory that is not pinned without waiting
PRODUCTS = {"convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm"}


class Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.float16, torch.bfloat16]


if torch.__version__.startswith(TORCH):  # autograd counts the devices once, before its first work
    _setup_privateuseone_for_python_backend(NAME, Backend())


@contextmanager
def a_gpu():
    """acgd finds one GPU, whose memory is never short."""
    silent = {"reset_peak_memory_stats": None, "max_memory_allocated": 0, "memory_reserved": 0}
    silent |= {"memory_allocated": 0, "mem_get_info": (8 * 10**10, 8 * 10**10)}
    silent |= {"get_device_name": "phantom", "get_device_capability": (9, 0)}
    with ExitStack() as stack:
        for name, answer in silent.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, return_value=answer))
        stack.enter_context(mock.patch("acgd.pipeline.models.pick_device", return_value=DEVICE))
        # torch.tensor(..., device=) makes a CPU tensor first and copies it, as on CUDA
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        # module.to() makes new parameters: writing to .data would leave `held` as it was
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        yield


class Claimed(torch.Tensor):
    """A tensor that says it is on the device; `held` is the one with the numbers."""

    @staticmethod
    def __new__(cls, held):
        layout = held.shape, held.stride(), held.storage_offset()
        claimed = torch.Tensor._make_wrapper_subclass(cls, *layout, dtype=held.dtype, device=DEVICE)
        claimed.held = held
        return claimed

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of Phantom()")

    def numpy(self, *args, **kwargs):
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy")

    __array__ = numpy

    def tolist(self):
        return self.cpu().tolist()

    def __deepcopy__(self, memo):
        copied = Claimed(self.held.clone())
        parameter = isinstance(self, torch.nn.Parameter)
        return torch.nn.Parameter(copied, self.requires_grad) if parameter else copied

    def data_ptr(self):
        return self.held.data_ptr()

    def __format__(self, spec):
        return format(self.item(), spec)


def held(x):
    return x.held if isinstance(x, Claimed) else x


def claim(x):
    return Claimed(x) if isinstance(x, torch.Tensor) else x


def lstm_cell(inputs, hidden, cell, *biases):
    """The fused kernel that only CUDA has: outputs, cells, and what it keeps for the way back."""
    gates = inputs + hidden + sum(bias for bias in biases if bias is not None)
    enter, forget, new, leave = gates.chunk(4, 1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * cell.tanh(), cell, gates


class Phantom(TorchDispatchMode):
    """`seen`: (what, line of acgd) -> how often; `bytes_up`: bytes uploaded."""

    def __init__(self, shapes: bool = False):
        super().__init__()
        self.home, self.seen, self.bytes_up = "meta" if shapes else "cpu", Counter(), 0

    def count(self, what: str) -> int:
        return sum(times for (kind, _), times in self.seen.items() if kind == what)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), func._schema.name.removeprefix("aten::")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there = any(isinstance(x, Claimed) for x in tensors)
        to = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if name == "_pin_memory":
            pinned = args[0].clone()
            pinned.pinned = True
            return pinned
        if not there and to != NAME:
            return func(*args, **kwargs)
        if name == "_to_copy":
            return self.copied(func, args[0], kwargs, there, to)
        if name == "_local_scalar_dense":
            self.saw("read")
            return 0 if self.home == "meta" else args[0].held.item()
        self.refuse(name, args, kwargs, tensors, to)
        if to is not None:
            kwargs["device"] = self.home
        return self.done(func, name, args, kwargs)

    def copied(self, func, x, kwargs, there, to):
        """x.to(...), perhaps across."""
        waits = not kwargs.pop("non_blocking", False)
        kwargs.pop("device", None)
        if there and to == "cpu":
            self.saw("read")
            out = torch.zeros_like(x.held, device="cpu") if self.home == "meta" else x.held
            return func(out, **kwargs)
        self.saw("kernel" if there else "upload")
        if not there:
            self.bytes_up += x.nbytes
            if waits or (x.nbytes > SMALL and not hasattr(x, "pinned")):
                self.saw("wait")
        return Claimed(func(held(x), **kwargs, device=self.home))

    def refuse(self, name, args, kwargs, tensors, to):
        """What CUDA refuses. Numbers (0-d) and indices may be on the CPU, and copy_ crosses."""
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"{name}: a CPU generator for a tensor of {DEVICE}")
        for x in tensors:
            number = x.ndim == 0 and name not in PRODUCTS
            index = name.startswith("index") and x is not args[0]
            if isinstance(x, Claimed) or to is not None or name == "copy_" or number or index:
                continue
            raise RuntimeError(f"{name}: tensors on two devices, {DEVICE} and {x.device}")
        if name in PRODUCTS and len({x.dtype for x in tensors}) > 1:
            raise RuntimeError(f"{name}: two dtypes, {[x.dtype for x in tensors]}")

    def done(self, func, name, args, kwargs):
        mine, others = tree_map(self.local, (args, kwargs))
        if name == "copy_" and not isinstance(args[0], Claimed):
            self.saw("read")
        elif name == "copy_" and not isinstance(args[1], Claimed):
            self.saw("upload")
            self.saw("wait")
            self.bytes_up += args[1].nbytes
        elif not func.is_view and "empty" not in name and name != "detach":
            if name.startswith("index") and any(
                isinstance(x, torch.Tensor) and not isinstance(x, Claimed)
                for x in tree_leaves(args[1:])
            ):
                self.saw("upload")
            self.saw("kernel")
        out = lstm_cell(*mine) if "lstm_cell" in name else func(*mine, **others)
        if torch.Tag.inplace_view in func.tags:
            with _mode_utils.no_dispatch():
                func(*args, **kwargs)
        return args[0] if func._schema.is_mutable else tree_map(claim, out)

    def local(self, x):
        if isinstance(x, torch.Tensor) and self.home == "meta" and not isinstance(x, Claimed):
            return x.to("meta") if x.ndim else x
        return held(x)

    def saw(self, what: str) -> None:
        """Count it where acgd asked for it, which for uploads is who calls `upload`."""
        frame = sys._getframe(2)
        while frame and (
            "/acgd/" not in frame.f_code.co_filename.rpartition("site-packages")[2]
            or frame.f_code.co_name == "upload"
        ):
            frame = frame.f_back
        line = frame and f"{frame.f_code.co_filename.rpartition('/acgd/')[2]}:{frame.f_lineno}"
        self.seen[what, line] += 1
