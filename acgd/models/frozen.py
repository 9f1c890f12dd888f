"""Layers that keep less for the way back when their weights are frozen, as in guidance.

Guidance asks for the gradient of a picture, never for one of weights. PyTorch's layers keep their
input all the same: a convolution needs it for its weight's gradient alone, and does not ask
whether anyone wants that. The layers here keep

    convolution               its weight, which is there anyway
    batch norm in use         one factor for each channel
    group norm, FiLM, SiLU    the input and each group's mean and deviation

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

from acgd.models import onednn, packed, winograd

WORTH = 2**20  # bytes of an input from which on memory matters more than a call's overhead
HALF = torch.bfloat16, torch.float16
GRAD_OF_INPUT = [True, False, False]  # of input, weight and bias


def only_input(x: Tensor, *others: Tensor | None) -> bool:
    """Whether x is large and a gradient is wanted with respect to it and to none of the others."""
    if torch.compiler.is_compiling():  # which has its own ways to keep less
        return False
    if not (torch.is_grad_enabled() and x.requires_grad and x.nbytes >= WORTH):
        return False
    return not any(other is not None and other.requires_grad for other in others)


def arithmetic(x: Tensor) -> torch.dtype:
    """The dtype that x's convolutions and products are computed in: its own or float32."""
    slow = x.device.type == "cpu" and x.dtype in HALF
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
    if is_linear(x, weight, *places):
        h = onednn.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias)
        return h.permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, *places)  # autocast has its way


def is_linear(x: Tensor, weight: Tensor, *places: Any) -> bool:
    """Whether the convolution is a product of matrices, and faster as one."""
    one = weight.shape[2:] == (1, 1) and places == ((1, 1), (0, 0), (1, 1), 1)
    last = x.is_contiguous(memory_format=torch.channels_last)
    return one and last and onednn.pays(x.permute(0, 2, 3, 1), weight)


class FrozenConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, dilation, groups):
        ctx.save_for_backward(weight)
        ctx.shape, ctx.places, ctx.groups = x.shape, (stride, padding, dilation), groups
        ctx.layout, ctx.wide = layout(x), arithmetic(x)
        return convolve(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        grad = grad.contiguous(memory_format=ctx.layout)  # behind torch.cat it is a part of another
        dtype, grad, weight = grad.dtype, grad.to(ctx.wide), weight.to(ctx.wide)
        if winograd.pays(grad, weight, *ctx.places, ctx.groups):
            return winograd.gradient(grad, weight).to(dtype), *[None] * 6
        if is_linear(grad, weight, *ctx.places, ctx.groups):
            h = onednn.linear(grad.permute(0, 2, 3, 1), weight.flatten(1).T, None)
            return h.permute(0, 3, 1, 2).to(dtype), *[None] * 6
        # the input's gradient needs of the input no number, only its shape and layout
        x = torch.empty(ctx.shape, dtype=ctx.wide, device=grad.device, memory_format=ctx.layout)
        given = *ctx.places, False, [0, 0], ctx.groups, GRAD_OF_INPUT
        gradients = torch.ops.aten.convolution_backward(grad, x, weight, None, *given)
        return gradients[0].to(dtype), *[None] * 6


class Linear(nn.Linear):
    """nn.Linear; faster on a CPU where its weights are frozen."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear, x (B, ..., C)."""
    if only_input(x, weight, bias):
        return FrozenLinear.apply(x, weight, bias)
    return multiply(x, weight, bias)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if onednn.pays(x, weight):
        return onednn.linear(x, weight, bias)
    return F.linear(x, weight, bias)


class FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(weight)
        return multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        return multiply(grad, weight.T, None), None, None


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
        sizes = len(x), x.shape[1], x[0, 0].numel(), norm.num_groups
        h, *statistics = torch.native_group_norm(own(x), norm.weight, norm.bias, *sizes, norm.eps)
        h = h.to(x.dtype)
        if scale is not None:
            h.mul_(1 + scale).add_(shift)
        ctx.save_for_backward(x, scale, shift, *statistics)
        ctx.norm, ctx.sizes = norm, sizes
        return F.silu(h, inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, scale, shift, *statistics = ctx.saved_tensors
        norm, (*_, groups) = ctx.norm, ctx.sizes
        # what SiLU saw again, as a factor and a summand for each channel
        mean, rstd = (v.repeat_interleave(x.shape[1] // groups, 1) for v in statistics)
        factor = (rstd * norm.weight)[..., None, None]
        summand = norm.bias[:, None, None] - mean[..., None, None] * factor
        if scale is not None:
            factor, summand = factor * (1 + scale), summand * (1 + scale) + shift
        h = torch.addcmul(summand, x, factor)
        grad = torch.ops.aten.silu_backward(grad.to(h.dtype).contiguous(memory_format=layout(x)), h)
        if scale is not None:
            grad.mul_(1 + scale)
        # in half precision PyTorch takes five times as long where groups are small
        x = own(x) if x.shape[1] >= 16 * groups else x.float()
        given = grad.to(x.dtype), x, *statistics, norm.weight, *ctx.sizes, GRAD_OF_INPUT
        gradient = torch.ops.aten.native_group_norm_backward(*given)[0]
        return gradient.to(ctx.saved_tensors[0].dtype), None, None, None


def doubled(x: Tensor) -> Tensor:
    """Each pixel four times: (B, C, H, W) -> (B, C, 2 H, 2 W)."""
    return FrozenDoubled.apply(x) if only_input(x) else F.interpolate(x, scale_factor=2)


class FrozenDoubled(torch.autograd.Function):
    """PyTorch's own way back takes 40 times as long where the gradient is a part of another."""

    @staticmethod
    def forward(ctx, x):
        ctx.layout = layout(x)
        return F.interpolate(x, scale_factor=2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return F.avg_pool2d(grad.contiguous(memory_format=ctx.layout), 2, divisor_override=1)


def own(x: Tensor) -> Tensor:
    """x as group norm takes it beside float32 weights: as it is where half precision may be."""
    return x if x.device.type == "cpu" and x.dtype in HALF else x.float()


def layout(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
