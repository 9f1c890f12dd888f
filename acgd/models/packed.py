"""Convolutions of small maps whose frozen weights are put into oneDNN's order once.

oneDNN, which computes PyTorch's convolutions on a CPU, wants weights in an order of its own, and
PyTorch makes it anew at each call. Where a map is small that takes as long as the arithmetic. Here
it is made once and kept, for the way there and for the way back: twice the weights' memory, so
only for weights of at most LARGEST bytes, and only where the map is small enough to gain by it.

The way back is a convolution with the weights turned round, which is what oneDNN computes anyway.
Values and gradients are PyTorch's to the bit, in channels-last float32. One thing differs: with a
single thread PyTorch leaves 1x1 kernels to a matrix product, of half the speed here, which rounds
otherwise; with several threads it takes oneDNN, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LARGEST = 2**23  # bytes of a weight that may be kept twice
POSITIONS = 2**12  # of a batch's maps together, beyond which it does not pay
ALONE = 20480  # numbers of a single picture up to which PyTorch does without oneDNN
LANES = 16  # channels that are computed at once; others are summed in another order on the way back
LAST = torch.channels_last


@dataclass
class Packed:
    """A layer's weights in oneDNN's order, for pictures of one shape."""

    made_of: tuple  # what `identity` said of the layer
    shape: torch.Size | None = None  # of the input that `ahead` is for
    ahead: Tensor | None = None
    shape_back: torch.Size | None = None  # of the gradient that `back` is for
    back: Tensor | None = None


_packed: WeakKeyDictionary[nn.Conv2d, Packed] = WeakKeyDictionary()


@cache
def works_here() -> bool:
    """Whether this PyTorch has oneDNN for this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    fast = torch.backends.cpu.get_cpu_capability().startswith(("AVX2", "AVX512"))
    names = "_convolution_pointwise", "_linear_pointwise"
    return fast and all(hasattr(torch.ops.mkldnn, name) for name in names)


def pays(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether `convolve` is faster than PyTorch, with equal values."""
    weight = layer.weight
    return (
        not weight.requires_grad
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.ndim == 4
        and x.shape[0] * x.shape[2] * x.shape[3] <= POSITIONS
        and (x.shape[0] > 1 or x.numel() > ALONE or layer.kernel_size[0] > 3)
        and plain(layer)
        and weight.nbytes <= LARGEST
        and weight.is_contiguous(memory_format=LAST)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and bool(torch.backends.mkldnn.enabled)
        and works_here()
    )


def plain(layer: nn.Conv2d) -> bool:
    """Undilated, of odd side and padded by half of it: maps stay as large as they are."""
    side = layer.kernel_size[0]
    half = (side // 2, side // 2)
    return (
        side % 2 == 1
        and layer.kernel_size == (side, side)
        and layer.padding == half
        and layer.stride == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.in_channels % LANES == layer.out_channels % LANES == 0
        and layer.padding_mode == "zeros"
        and (layer.bias is None or not layer.bias.requires_grad)
    )


def convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """layer(x) where it `pays`."""
    if x.requires_grad and torch.is_grad_enabled():
        return Convolution.apply(x, layer)
    return ahead(layer, x)


class Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return ahead(layer, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return back(ctx.layer, grad), None


def ahead(layer: nn.Conv2d, x: Tensor) -> Tensor:
    kept = packed(layer)
    if kept.ahead is None or kept.shape != x.shape:
        kept.shape, kept.ahead = x.shape, pack(layer.weight, layer, x.shape)
    return run(x, kept.ahead, layer.bias, layer)


def back(layer: nn.Conv2d, grad: Tensor) -> Tensor:
    kept = packed(layer)
    if kept.back is None or kept.shape_back != grad.shape:
        turned = layer.weight.flip(2, 3).transpose(0, 1)
        kept.shape_back, kept.back = grad.shape, pack(turned, layer, grad.shape)
    return run(grad, kept.back, None, layer)


def packed(layer: nn.Conv2d) -> Packed:
    """What is kept of a layer; nothing yet where its weights are others than they were."""
    kept, now = _packed.get(layer), identity(layer.weight)
    if kept is None or kept.made_of != now:
        kept = _packed[layer] = Packed(now)
    return kept


def identity(weight: Tensor) -> tuple:
    """Changes where a layer is given other weights, or its weights other numbers."""
    return id(weight), weight.data_ptr(), weight._version


def pack(weight: Tensor, layer: nn.Conv2d, shape: torch.Size) -> Tensor:
    """(O, I, k, k) in the order that oneDNN chooses for inputs of this shape."""
    places: Any = layer.padding, layer.stride, layer.dilation, layer.groups, list(shape)
    weight = weight.contiguous().to_mkldnn()
    return torch._C._nn.mkldnn_reorder_conv2d_weight(weight, *places)


def run(x: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d) -> Tensor:
    """The convolution of x (N, I, H, W) with weights that `pack` made, in channels-last."""
    places = layer.padding, layer.stride, layer.dilation, layer.groups
    return torch.ops.mkldnn._convolution_pointwise.default(x, weight, bias, *places, "none", [], "")
