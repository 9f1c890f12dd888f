"""Products of matrices in float32 by oneDNN, which PyTorch has without a public name.

On a CPU torch.mm goes to MKL, which on processors that are not Intel's does without AVX-512: half
the speed. oneDNN is what PyTorch's convolutions use; 1x1 convolutions, too, unless there is one
thread and few pictures. None of these functions knows of gradients.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from acgd.models.packed import works_here

LEAST = 2**25  # multiplications from which on the rate matters, not the call


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether x and weight are float32 on a CPU that has oneDNN, and nobody wants gradients of
    what comes out, nor another dtype for it, nor traces it to be compiled."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and bool(torch.backends.mkldnn.enabled)
        and works_here()
    )


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `linear` can be called, and is worth it.

    What each picture has decides that, not how many there are: it is the same in any batch.
    """
    return prod(x.shape[1:-1]) * weight.numel() >= LEAST and takes(x, weight)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear: x (B, ..., C), weight (O, C), bias (O,) -> (B, ..., O)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def packed(weight: Tensor, rows: int) -> Tensor:
    """The weights (G, O, C) in the layout that `grouped` multiplies `rows` rows with fastest."""
    groups, outward, inward = weight.shape
    weight = weight.view(groups * outward, inward, 1, 1).to_mkldnn()
    places: Any = [0, 0], [1, 1], [1, 1], groups, [1, groups * inward, rows, 1]
    return torch._C._nn.mkldnn_reorder_conv2d_weight(weight, *places)


def grouped(x: Tensor, weight: Tensor) -> Tensor:
    """Each group's product with its own weights, which are `packed`: (T, G, C) -> (T, G, O)."""
    count, groups, inward = x.shape
    line = x.view(1, count, 1, groups * inward).permute(0, 3, 1, 2)  # to oneDNN: a 1x1 convolution
    places = [0, 0], [1, 1], [1, 1], groups
    out = torch.ops.mkldnn._convolution_pointwise(line, weight, None, *places, "none", [], "")
    return out.permute(0, 2, 3, 1).view(count, groups, -1)
