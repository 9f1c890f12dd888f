"""Bytes that a module takes, counted on the meta device: tensors with sizes but no numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def stored(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def kept_bytes(module: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """What autograd keeps of run(x) beside the module's own tensors, each storage once."""
    storages = {t.untyped_storage()._cdata for t in module.state_dict().values()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in storages:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = run(x.requires_grad_())
    del out
    return sum(kept.values())


def passing_bytes(run: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """The most that run(x) holds at a time of what it makes, without a way back."""
    with torch.no_grad(), Peak() as peak:
        run(x)
    return peak.most


def back_bytes(run: Callable[[Tensor], Tensor], x: Tensor) -> tuple[int, int]:
    """What run(x) leaves for the way back, its result with it, and the most there and back."""
    with torch.enable_grad(), Peak() as peak:
        out = run(x.requires_grad_())
        kept = peak.now
        torch.autograd.grad(out, x, torch.empty_like(out))
    return kept, peak.most


class Peak(TorchDispatchMode):
    """Adds up the storages that come and go under it; `most`: of bytes at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: dict[int, Any] = {}  # storages that live

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {t.untyped_storage()._cdata for t in tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in tensors(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in known and storage._cdata not in self.seen:
                self.seen[storage._cdata] = weakref.finalize(storage, self.gone, storage._cdata,
                                                             storage.nbytes())  # fmt: skip
                self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        return out

    def gone(self, key: int, size: int) -> None:
        self.seen.pop(key, None)
        self.now -= size


def tensors(tree: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


@contextmanager
def fused_attention() -> Iterator[None]:
    """Attention as the kernels of CPUs and GPUs compute it, which never hold the weights.

    The meta device has none of these by itself and would count a map of all pairs of tokens. What
    is computed again on a way back escapes torch's own modes, so the function itself is exchanged.
    """
    functional: Any = torch.nn.functional
    original = functional.scaled_dot_product_attention

    def attention(
        q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *rest: Any, **more: Any
    ) -> Tensor:
        if not q.is_meta:
            return original(q, k, v, attn_mask, *rest, **more)
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return kernel(q, k, v, attn_mask=attn_mask)[0]

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original
