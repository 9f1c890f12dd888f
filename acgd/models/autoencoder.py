"""A convolutional autoencoder: pictures to small maps of latents and back.

Norm-free residual blocks between space-to-depth borders (Shi et al. 2016, arXiv 1609.05158), so
that convolutions at full resolution stay few and cheap. The latents come out of a batch norm
without affine: each channel has mean 0 and variance 1 over the training pictures, which is what a
diffusion process of unit variance wants.
B: pictures, S: a picture's side, C: latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from acgd.models.frozen import Conv2d

BORDER = 4  # pixels a side that the encoder's first convolution sees as channels
CODED = 8  # pixels a side of the coded picture for each latent


class Block(nn.Module):
    """x + conv(silu(conv(silu(x)))), the identity when it is new."""

    def __init__(self, width: int):
        super().__init__()
        self.first = Conv2d(width, width, 3, padding=1)
        self.second = Conv2d(width, width, 3, padding=1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


def blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*[Block(width) for _ in range(count)])


def enlarge(x: Tensor) -> Tensor:
    """(B, 4 C, h, w) to (B, C, 2 h, 2 w): F.pixel_shuffle, with a quick way back on a CPU."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    tracked = x.requires_grad and torch.is_grad_enabled()
    return (
        Enlarge.apply(x) if tracked and last and x.device.type == "cpu" else F.pixel_shuffle(x, 2)
    )


class Enlarge(torch.autograd.Function):
    """PyTorch's own way back jumps from number to number in channels-last, five times as slow."""

    @staticmethod
    def forward(ctx, x):
        return F.pixel_shuffle(x, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        b, c, height, width = grad.shape
        grad = grad.permute(0, 2, 3, 1).reshape(b, height // 2, 2, width // 2, 2, c)
        out = grad.new_empty(b, height // 2, width // 2, c, 2, 2)
        for i in range(2):
            for j in range(2):
                out[..., i, j] = grad[:, :, i, :, j]
        return out.flatten(3).permute(0, 3, 1, 2)


class Encoder(nn.Module):
    """(B, 3, S, S) in [-1, 1] to (B, C, S / 8, S / 8)."""

    def __init__(self, channels: int, widths: Sequence[int], depths: Sequence[int]):
        super().__init__()
        self.enter = Conv2d(3 * BORDER**2, widths[0], 3, padding=1)
        self.high = blocks(widths[0], depths[0])
        self.down = Conv2d(4 * widths[0], widths[1], 1)
        self.low = blocks(widths[1], depths[1])
        self.leave = Conv2d(widths[1], channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels, affine=False, momentum=0.02)

    def forward(self, x: Tensor) -> Tensor:
        h = self.high(self.enter(F.pixel_unshuffle(x, BORDER)))
        h = self.low(self.down(F.pixel_unshuffle(h, 2)))
        return self.norm(self.leave(F.silu(h)).float())


class Decoder(nn.Module):
    """(B, C, s, s) to (B, 3, S, S), S = s 2^widths: a stage for each width, twice as large each."""

    def __init__(self, channels: int, widths: Sequence[int], depths: Sequence[int]):
        super().__init__()
        self.enter = Conv2d(channels, widths[0], 3, padding=1)
        stages = zip(widths, depths, strict=True)
        self.stages = nn.ModuleList([blocks(width, depth) for width, depth in stages])
        ups = [Conv2d(wide, 4 * narrow, 1) for wide, narrow in pairwise(widths)]
        self.ups = nn.ModuleList(ups)
        self.leave = Conv2d(widths[-1], 12, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.stages[0](self.enter(z))
        for up, stage in zip(self.ups, self.stages[1:], strict=True):
            h = stage(enlarge(up(F.silu(h))))
        return enlarge(self.leave(F.silu(h)))


class Autoencoder(nn.Module):
    """`image_size` is what comes in and goes out. Where the decoder draws larger than the encoder
    looks (8 pixels a latent), pictures are averaged down to what it looks at first."""

    def __init__(
        self,
        image_size: int = 128,
        channels: int = 8,
        latent_size: int = 16,
        encoder_widths: Sequence[int] = (64, 128),
        encoder_depths: Sequence[int] = (1, 2),
        decoder_widths: Sequence[int] = (160, 96, 40),
        decoder_depths: Sequence[int] = (2, 2, 1),
    ):
        super().__init__()
        if latent_size * 2 ** len(decoder_widths) != image_size:
            raise ValueError(
                f"a decoder of {len(decoder_widths)} stages does not end at {image_size}"
            )
        self.image_size, self.channels, self.latent_size = image_size, channels, latent_size
        self.shrink = image_size // (CODED * latent_size)
        self.encoder = Encoder(channels, encoder_widths, encoder_depths)
        self.decoder = Decoder(channels, decoder_widths, decoder_depths)

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] to latents (B, C, s, s) of unit variance."""
        return self.encoder(F.avg_pool2d(x, self.shrink) if self.shrink > 1 else x)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, C, s, s) to (B, 3, S, S), nominally in [-1, 1]."""
        return self.decoder(z)
