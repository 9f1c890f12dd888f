"""3x3 convolutions on a CPU with a quarter of the multiplications.

Winograd's minimal filtering F(4x4, 3x3), as Lavin & Gray 2015 (arXiv 1509.09308) use it: squares of
6x6 pixels that overlap by two, 36 products of channels for each, and 4x4 pixels come out. In
float32 its error is four times that of PyTorch's own convolution, 3e-6; in half precision it
would not do. The weights' transform is made anew at each call, which large maps do not notice:
there is nothing to keep, and nothing that could be out of date.

B: batch, C and O: channels in and out, H and W: height and width, T: squares.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.models import onednn

LEAST_PIXELS, LEAST_CHANNELS = 64 * 64, 128  # below, the transforms take more than they save
SQUARES = 256  # worked on at once: they stay in the processor's cache


def both_ways(*rows: tuple[float, ...]) -> Tensor:
    """A transform of lines, as one of squares: both dimensions at once."""
    line = torch.tensor(rows, dtype=torch.float32)
    return line.kron(line)


# evaluation at the points 0, 1, -1, 2, -2 and infinity
PIXELS = both_ways(  # (36, 36)
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
WEIGHTS = both_ways(  # (36, 9)
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
BACK = both_ways(  # (16, 36)
    (1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)
)


def pays(x: Tensor, weight: Tensor, *places: Any) -> bool:
    """Whether `convolution` can take this one's place, and is faster.

    places: stride, padding, dilation, each a pair, and groups.
    A picture decides that alone, not how many there are: it is the same in any batch.
    """
    height, width = x.shape[2:]
    return (
        weight.shape[2:] == (3, 3)
        and places == ((1, 1), (1, 1), (1, 1), 1)
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and height * width >= LEAST_PIXELS
        and height % 4 == width % 4 == 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and onednn.takes(x, weight)
    )


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d(x, weight, bias, padding=1) where `pays` says so; channels last as x is."""
    return filtered(x, transformed(weight, WEIGHTS), bias)


def gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `convolution` for its input: a convolution with the weights turned round."""
    return filtered(grad, transformed(weight.transpose(0, 1), WEIGHTS.flip(1)), None)


def transformed(weight: Tensor, matrix: Tensor) -> Tensor:
    """The weights (O, C, 3, 3) at the 36 points, packed."""
    points = matrix @ weight.permute(2, 3, 0, 1).reshape(9, -1)  # (36, O C)
    return onednn.packed(points.view(36, *weight.shape[:2]), SQUARES)


def filtered(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, C, H, W) by `transformed` weights: (B, O, H, W)."""
    inward, height, width = x.shape[1:]
    outward = len(weight) // 36
    rows = max(1, 4 * SQUARES // width) * 4
    out = x.new_empty(len(x), height, width, outward)
    for picture, place in zip(x.permute(0, 2, 3, 1), out, strict=True):
        for top in range(0, height, rows):
            end = min(top + rows, height)
            strip = picture[max(top - 1, 0) : end + 1]
            strip = F.pad(strip, (0, 0, 1, 1, int(top == 0), int(end == height)))
            squares = strip.unfold(0, 6, 4).unfold(1, 6, 4).permute(0, 1, 3, 4, 2)
            v = PIXELS @ squares.reshape(-1, 36, inward)  # (T, 36, C)
            y = BACK @ onednn.grouped(v, weight)  # (T, 16, O)
            y = y.view(-1, width // 4, 4, 4, outward).transpose(1, 2)
            drawn = place[top:end].view(y.shape)
            drawn.copy_(y) if bias is None else torch.add(y, bias, out=drawn)
    return out.permute(0, 3, 1, 2)
