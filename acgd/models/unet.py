"""The UNet of guided diffusion (Dhariwal & Nichol 2021, "Diffusion Models Beat GANs"), with the
published checkpoints' key names.

B: batch, C: channels, H, W: height and width. Sizes in `UNet` are create_model's arguments, so the
published model_config dictionaries can be passed as they are. Two extras of ours leave the keys of
published models alone: `patch_size` (space-to-depth at the border, so that a 64 pixel picture is
worked on as a 16 x 16 map) and `cond_dim` (an embedding as optional condition).
"""

from __future__ import annotations

import math
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from acgd.models import frozen
from acgd.models.frozen import Conv2d, arithmetic, doubled, norm_silu

CHANNEL_MULT = {
    512: "0.5,1,1,2,2,4,4",
    256: "1,1,2,2,4,4",
    128: "1,1,2,3,4",
    64: "1,2,3,4",
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Cosines, then sines of t (B,) at `dim // 2` frequencies: (B, dim) float32.

    f_i = max_period^(-i / h), h = dim // 2; an odd `dim` gets a zero column.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    f = torch.exp(-math.log(max_period) * steps / half)
    angles = t[:, None].float() * f[None]
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, dim % 2))


class GroupNorm32(nn.GroupNorm):
    """Group norm in float32 whatever the activations' dtype is."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


def norm(channels: int) -> GroupNorm32:
    return GroupNorm32(32, channels)


M = TypeVar("M", bound=nn.Module)


def zero(module: M) -> M:
    """Residual branches start as nothing, so that the block starts as the identity."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def resample(x: Tensor, mode: str | None) -> Tensor:
    if mode == "up":
        return doubled(x)
    return F.avg_pool2d(x, 2) if mode == "down" else x


class ResBlock(nn.Module):
    """Residual block, FiLM-modulated by the time embedding; may halve or double the map."""

    def __init__(self, channels, emb_channels, out_channels, dropout, film, mode=None):
        super().__init__()
        self.film, self.mode = film, mode
        self.in_layers = nn.Sequential(
            norm(channels), nn.SiLU(), Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_channels, out_channels * (2 if film else 1))
        )
        self.out_layers = nn.Sequential(
            norm(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero(Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        # resampling sits between the activation and the convolution, and on the skip path alike
        h = resample(norm_silu(cast(GroupNorm32, self.in_layers[0]), x), self.mode)
        h = self.in_layers[2](h)
        e = self.emb_layers(emb).to(h.dtype)[..., None, None]  # (B, C or 2C, 1, 1)
        last = cast(GroupNorm32, self.out_layers[0])
        h = norm_silu(last, h, *e.chunk(2, dim=1)) if self.film else norm_silu(last, h + e)
        h = self.out_layers[2:](h)
        return self.skip_connection(resample(x, self.mode)) + h


class AttentionBlock(nn.Module):
    """Self-attention over the map's pixels.

    The published models are "legacy": the 3C channels of qkv hold q, k, v of the first head, then
    of the second ...; the new order holds all q, all k, all v.
    """

    def __init__(self, channels: int, heads: int, new_order: bool):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        # a 1x1 convolution is a linear map of the channels; channels-last keeps it one matmul
        h = self.norm(x).permute(0, 2, 3, 1).reshape(b, height * width, c).to(arithmetic(x))
        h = linear(self.qkv, h)  # (B, HW, 3C)
        if self.new_order:
            q, k, v = h.view(b, -1, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = h.view(b, -1, self.heads, 3, c // self.heads).permute(3, 0, 2, 1, 4)
        h = attention(q, k, v)  # (B, heads, HW, C / heads)
        h = h.transpose(1, 2).reshape(b, height * width, c)
        h = linear(self.proj_out, h).to(x.dtype)
        return x + h.view(b, height, width, c).permute(0, 3, 1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v; q, k, v (B, heads, N, d).

    In mixed precision on a CPU, where we train, as plain products: the fused kernel's way back in
    bf16 takes half as long again as the whole network does with these.
    """
    if torch.is_autocast_enabled("cpu") and q.device.type == "cpu":
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


def linear(conv: nn.Conv1d, h: Tensor) -> Tensor:
    """A 1x1 convolution of (B, HW, C), in h's dtype."""
    bias = None if conv.bias is None else conv.bias.to(h.dtype)
    return frozen.linear(h, conv.weight[..., 0].to(h.dtype), bias)


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(resample(x, "up"))


class Stage(nn.Sequential):
    """Blocks in a row; residual blocks also take the time embedding."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override] # takes emb
        for block in self:
            x = block(x, emb) if isinstance(block, ResBlock) else block(x)
        return x


class UNet(nn.Module):
    """(x (B, 3, H, W), timesteps (B,) float) -> (B, 3 or 6, H, W): prediction [and variance].

    Args, as create_model's:
        image_size: the picture's side; decides `channel_mult` where that is ""
        channel_mult: width of each level relative to num_channels, "1,2,4"
        attention_resolutions: sides of the maps that get attention, "32,16,8"
        num_head_channels: overrides num_heads unless -1
        dtype: of the torso's activations; `convert_torso` casts its convolutions
    and ours:
        patch_size: side of the squares that become channels at the border
        cond_dim: size of the embedding that may be given as `cond`, 0 for none
    """

    def __init__(
        self,
        image_size: int,
        num_channels: int,
        num_res_blocks: int,
        channel_mult: str = "",
        learn_sigma: bool = False,
        class_cond: bool = False,
        num_classes: int = 1000,
        attention_resolutions: str = "16",
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        dropout: float = 0.0,
        dtype: str = "float32",
        use_checkpoint: bool = False,
        patch_size: int = 1,
        cond_dim: int = 0,
        in_channels: int = 3,
    ):
        super().__init__()
        if not channel_mult and image_size not in CHANNEL_MULT:
            raise ValueError(f"no default channel_mult for image_size {image_size}: give one")
        mults = [float(m) for m in (channel_mult or CHANNEL_MULT[image_size]).split(",")]
        widths = [int(m * num_channels) for m in mults]
        side = image_size // patch_size
        attend = {side // int(r) for r in attention_resolutions.split(",") if r.strip()}
        emb_dim = 4 * num_channels
        self.image_size, self.num_channels, self.patch_size = image_size, num_channels, patch_size
        self.in_channels = in_channels
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.cond_dim, self.class_cond = cond_dim, class_cond
        self.dtype, self.use_checkpoint = DTYPES[dtype], use_checkpoint

        self.time_embed = nn.Sequential(
            nn.Linear(num_channels, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim)
        )
        if class_cond:
            self.label_emb = nn.Embedding(num_classes, emb_dim)
        if cond_dim:
            self.cond_emb = nn.Linear(cond_dim, emb_dim)

        def res(c_in, c_out, mode=None):
            return ResBlock(c_in, emb_dim, c_out, dropout, use_scale_shift_norm, mode)

        def attend_to(c, heads):
            heads = heads if num_head_channels == -1 else c // num_head_channels
            return AttentionBlock(c, heads, use_new_attention_order)

        ch, rate = widths[0], 1
        stem = Conv2d(in_channels * patch_size**2, ch, 3, padding=1)
        self.input_blocks, skips = nn.ModuleList([Stage(stem)]), [ch]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                blocks, ch = [res(ch, width)], width
                if rate in attend:
                    blocks.append(attend_to(ch, num_heads))
                self.input_blocks.append(Stage(*blocks))
                skips.append(ch)
            if level < len(widths) - 1:
                down = res(ch, ch, "down") if resblock_updown else Downsample(ch)
                self.input_blocks.append(Stage(down))
                skips.append(ch)
                rate *= 2

        self.middle_block = Stage(res(ch, ch), attend_to(ch, num_heads), res(ch, ch))

        heads_up = num_heads if num_heads_upsample == -1 else num_heads_upsample
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(num_res_blocks + 1):
                blocks, ch = [res(ch + skips.pop(), width)], width
                if rate in attend:
                    blocks.append(attend_to(ch, heads_up))
                if level and i == num_res_blocks:
                    blocks.append(res(ch, ch, "up") if resblock_updown else Upsample(ch))
                    rate //= 2
                self.output_blocks.append(Stage(*blocks))
        out = Conv2d(ch, self.out_channels * patch_size**2, 3, padding=1)
        self.out = nn.Sequential(norm(ch), nn.SiLU(), zero(out))

    def convert_torso(self, dtype: str) -> UNet:
        """Cast the torso's convolutions, and only them, to "float16", "bfloat16" or "float32".

        Norms, linear layers, the time embedding and `out` stay float32, as in the original.
        """
        self.dtype = DTYPES[dtype]
        for part in (self.input_blocks, self.middle_block, self.output_blocks):
            for module in part.modules():
                if isinstance(module, nn.Conv1d | nn.Conv2d):
                    module.to(self.dtype)
        return self

    def embed(
        self,
        timesteps: Tensor,
        y: Tensor | None = None,
        cond: Tensor | None = None,
        cond_mask: Tensor | None = None,
    ) -> Tensor:
        """The (B, 4 num_channels) embedding of the step and of what the picture shall show."""
        emb = self.time_embed(timestep_embedding(timesteps, self.num_channels))
        if self.class_cond:
            if y is None:
                raise ValueError("a class-conditional UNet needs y, the class ids")
            emb = emb + self.label_emb(y)
        if cond is not None:
            # unit-norm embeddings have entries of 1/sqrt(D); a linear layer likes them near 1
            c = self.cond_emb(cond * math.sqrt(self.cond_dim))
            emb = emb + (c if cond_mask is None else torch.where(cond_mask[:, None], c, 0.0))
        return emb

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        y: Tensor | None = None,
        cond: Tensor | None = None,
        cond_mask: Tensor | None = None,
    ) -> Tensor:
        """x (B, 3, H, W); timesteps (B,) of the base process, 0..1000, may be fractional;
        y (B,) class ids; cond (B, cond_dim) with cond_mask (B,) bool, False where it is dropped.
        """
        emb = self.embed(timesteps, y, cond, cond_mask)
        h = F.pixel_unshuffle(x, self.patch_size) if self.patch_size > 1 else x
        h, skips = h.to(self.dtype), []
        for stage in self.input_blocks:
            h = self.run(stage, h, emb)
            skips.append(h)
        h = self.run(self.middle_block, h, emb)
        for stage in self.output_blocks:
            h = self.run(stage, torch.cat([h, skips.pop()], dim=1), emb)
        h = self.out[2](norm_silu(cast(GroupNorm32, self.out[0]), h.to(x.dtype)))
        return F.pixel_shuffle(h, self.patch_size) if self.patch_size > 1 else h

    def run(self, stage: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(stage, h, emb, use_reentrant=False)
        return stage(h, emb)
