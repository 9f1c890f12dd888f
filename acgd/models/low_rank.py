"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): what a network learns later, kept apart.

A layer's weight W becomes W + U D, with U and D of few columns and rows. A convolution's kernel
(O, I, h, w) is taken as a matrix (O h, I w), so that both factors are small.

A file of them has for the layer "NAME" the tensors "NAME.up" (O h, r), "NAME.down" (r, I w), both
int8 of at most LEVELS, which stands for one, and "NAME.scale" (r,), what their products are
multiplied by.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

LEAST = 64  # rows and columns below which a layer stays as it is
LEVELS = 31  # a factor's numbers are whole and at most this: six bits, which git packs as such


class LowRank(nn.Module):
    """A weight's parametrization, of rank `rank`; the weight itself is frozen."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        weight.requires_grad_(False)
        rows, columns = matrix(weight.shape)
        self.up = nn.Parameter(torch.zeros(rows, rank))
        self.down = nn.Parameter(torch.randn(rank, columns) / columns**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return weight + step(self.up, self.down, weight)


def matrix(shape: torch.Size) -> tuple[int, int]:
    """Rows and columns of a weight (O, I), (O, I, l) or (O, I, h, w) as a matrix."""
    height, width = (1, 1, *shape[2:])[-2:]
    return shape[0] * height, shape[1] * width


def step(up: Tensor, down: Tensor, weight: Tensor) -> Tensor:
    """U D in the shape and layout of the weight."""
    out, inward = weight.shape[:2]
    height, width = (1, 1, *weight.shape[2:])[-2:]
    product = (up @ down).view(out, height, inward, width).transpose(1, 2)
    like = product.reshape(weight.shape)
    if weight.ndim == 4:
        like = like.contiguous(memory_format=torch.channels_last)
    return like


def adapt(model: nn.Module, rank: int) -> list[nn.Parameter]:
    """Give the model's large convolutions and products a LowRank each, freeze all else, and return
    what is left to train."""
    model.requires_grad_(False)
    trained: list[nn.Parameter] = []
    for module in list(model.modules()):
        if not isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear):
            continue
        if min(matrix(module.weight.shape)) >= LEAST:
            part = LowRank(module.weight, rank)
            parametrize.register_parametrization(module, "weight", part, unsafe=True)
            trained += part.parameters()
    return trained


def merge(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Add a file's products to the weights of the model that it was trained for."""
    for name in sorted({key.rpartition(".")[0] for key in tensors}):
        weight = model.get_parameter(f"{name}.weight")
        up, down, scale = (
            tensors[f"{name}.{part}"].to(weight.device, torch.float32)
            for part in ("up", "down", "scale")
        )
        change = step(up * (scale / LEVELS**2), down, weight)
        changed = nn.Parameter((weight.float() + change).to(weight.dtype), False)
        model.get_submodule(name).weight = changed


def factors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a file for what `adapt` has made of the model and training has taught it."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if not isinstance(module, LowRank):
            continue
        layer = name.partition(".parametrizations.")[0]
        left, middle, right = torch.linalg.svd(module.up @ module.down, full_matrices=False)
        rank = len(module.down)
        up, above = levels(left[:, :rank], 0)
        down, below = levels(right[:rank], 1)
        scale = middle[:rank] * above * below
        found |= {f"{layer}.up": up, f"{layer}.down": down, f"{layer}.scale": scale}
    return found


def levels(factor: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """int8 numbers, and what LEVELS stands for in each column (dim 0) or row (1)."""
    most = factor.abs().amax(dim, keepdim=True)
    return (factor / most * LEVELS).round().to(torch.int8), most.flatten()
