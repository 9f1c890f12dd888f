"""Layers that keep less for the way back when their weights are frozen, as in guidance.

Guidance asks for the gradient of a picture, never for one of weights. PyTorch's layers keep their
input all the same: a convolution needs it for its weight's gradient alone, and does not ask
whether anyone wants that. The layers here keep

    convolution               its weight, which is there anyway
    batch norm in use         one factor for each channel
    group norm, FiLM, SiLU    the input; what lies between is computed again on the way back

Their values are those of PyTorch's layers, their gradients the same to rounding. They step in
where a gradient flows to a large input and to nothing else; training and small maps run PyTorch's
own layers. Keys are unchanged. Second derivatives raise an error. Large 3x3 convolutions on a CPU
go Winograd's way, see `winograd`: there values, too, are the same to rounding.

On processors without bf16 or fp16 arithmetic PyTorch computes those convolutions a number at a
time, dozens of times slower than in float32: there they are computed in float32, and weights and
activations stay half as large.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from acgd.models import packed, winograd

WORTH = 2**20  # bytes of an input from which on memory matters more than a call's overhead
GRAD_OF_INPUT = [True, False, False]  # of input, weight and bias


def only_input(x: Tensor, *others: Tensor | None) -> bool:
    """Whether x is large and a gradient is wanted with respect to it and to none of the others."""
    if not (torch.is_grad_enabled() and x.requires_grad and x.nbytes >= WORTH):
        return False
    return not any(other is not None and other.requires_grad for other in others)


def arithmetic(x: Tensor) -> torch.dtype:
    """The dtype that x's convolutions and products are computed in: its own or float32."""
    slow = x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16)
    return torch.float32 if slow and capability() in ("DEFAULT", "AVX2") else x.dtype


@cache
def capability() -> str:
    """The instructions that PyTorch found on this processor, such as "AVX512"."""
    return torch.backends.cpu.get_cpu_capability()


class Conv2d(nn.Conv2d):
    """nn.Conv2d; without its input in the graph where its weights are frozen."""

    def forward(self, x: Tensor) -> Tensor:
        if packed.pays(self, x):
            return packed.convolve(self, x)
        places = self.stride, self.padding, self.dilation, self.groups
        if only_input(x, self.weight, self.bias):
            return FrozenConvolution.apply(x, self.weight, self.bias, *places)
        return convolve(x, self.weight, self.bias, *places)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *places: Any) -> Tensor:
    """F.conv2d in `arithmetic(x)`; the answer has x's dtype."""
    wide = arithmetic(x)
    if wide != x.dtype:
        bias = None if bias is None else bias.to(wide)
        return convolve(x.to(wide), weight.to(wide), bias, *places).to(x.dtype)
    if winograd.pays(x, weight, *places):
        return winograd.convolution(x, weight, bias)
    return F.conv2d(x, weight, bias, *places)  # autocast has its way


class FrozenConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, dilation, groups):
        ctx.save_for_backward(weight)
        last = x.is_contiguous(memory_format=torch.channels_last)
        ctx.layout = torch.channels_last if last else torch.contiguous_format
        ctx.shape, ctx.places, ctx.groups = x.shape, (stride, padding, dilation), groups
        ctx.wide = arithmetic(x)
        return convolve(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        grad = grad.contiguous(memory_format=ctx.layout)
        dtype, grad, weight = grad.dtype, grad.to(ctx.wide), weight.to(ctx.wide)
        if winograd.pays(grad, weight, *ctx.places, ctx.groups):
            return winograd.gradient(grad, weight).to(dtype), *[None] * 6
        # the input's gradient needs of the input no number, only its shape and layout
        x = torch.empty(ctx.shape, dtype=ctx.wide, device=grad.device, memory_format=ctx.layout)
        given = *ctx.places, False, [0, 0], ctx.groups, GRAD_OF_INPUT
        gradients = torch.ops.aten.convolution_backward(grad, x, weight, None, *given)
        return gradients[0].to(dtype), *[None] * 6


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d; in eval mode, with frozen weights, it is a factor for each channel."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and only_input(x, self.weight, self.bias):
            statistics = self.running_mean, self.running_var
            return FrozenBatchNorm.apply(x, self.weight, self.bias, *statistics, self.eps)
        return super().forward(x)


class FrozenBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, eps):
        ctx.save_for_backward((weight * (var + eps).rsqrt())[:, None, None])
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (factor,) = ctx.saved_tensors
        return (grad * factor).to(grad.dtype), *[None] * 5


def norm_silu(
    norm: nn.GroupNorm, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """silu(norm(x) (1 + scale) + shift).

    x (B, C, H, W); scale and shift (B, C, 1, 1), both or neither.
    """
    if only_input(x, norm.weight, norm.bias, scale, shift):
        return FrozenNormSiLU.apply(x, norm, scale, shift)
    return modulated(norm, x, scale, shift)


def modulated(norm: nn.GroupNorm, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """What norm_silu is, with PyTorch's own functions."""
    h = norm(x)
    return F.silu(h if scale is None else h * (1 + scale) + shift)


class FrozenNormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, norm, scale, shift):
        ctx.save_for_backward(x, scale, shift)
        ctx.norm = norm
        return modulated(norm, x, scale, shift)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, scale, shift = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            h = modulated(ctx.norm, x, scale, shift)
        return torch.autograd.grad(h, x, grad)[0], None, None, None
