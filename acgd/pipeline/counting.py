"""Bytes that a module takes, counted on the meta device: tensors with sizes but no numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class Way(NamedTuple):
    """Bytes of a sample on a way: kept for the way back, and at most there and back."""

    kept: int = 0
    peak: int = 0


def stored(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def passing_bytes(run: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """The most that run(x) holds at a time of what it makes, without a way back."""
    with torch.no_grad(), Peak() as peak:
        run(x)
    return peak.most


def back_bytes(run: Callable[[Tensor], Tensor], x: Tensor) -> Way:
    """Of run(x), whose result counts as kept."""
    with torch.enable_grad(), Peak() as peak:
        out = run(x.requires_grad_())
        kept = peak.now
        torch.autograd.grad(out, x, torch.empty_like(out))
    return Way(kept, peak.most)


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
            if tensor.untyped_storage()._cdata not in known:
                self.hold(tensor)
        return out

    def hold(self, tensor: Tensor) -> None:
        """Count the tensor's storage, if it is new, until it goes."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            gone = weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
            self.seen[storage._cdata] = gone
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)

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
