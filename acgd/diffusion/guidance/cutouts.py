"""Random square cutouts of a picture, resized to what an encoder sees (the notebook's MakeCutouts).

A cut's side is u^power (max - min) + min for uniform u: from the encoder's size up to the picture's
shorter side. The resize is adaptive average pooling, which is separable: cut and resize together
are rows @ picture @ columns^T with one sparse averaging matrix per cut and side, so all cuts of a
batch are two matrix products and no loop. B: samples, N: cuts a sample, S: the encoder's size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from acgd.diffusion.noise import Noise, SharedNoise


def draw_boxes(
    noise: Noise,
    count: int,
    height: int,
    width: int,
    cut_size: int,
    power: float = 1.0,
    smallest: float | None = None,
) -> Tensor:
    """(B, N, 3) int64 on the CPU: side, x offset and y offset of each cut.

    (1, N, 3) where the noise is shared by the batch.

    `smallest`: a fraction of the shorter side, in place of the encoder's size, for pictures that
    are no larger than what the encoder sees.
    """
    high = min(height, width)
    low = min(high, cut_size) if smallest is None else max(1, round(smallest * high))
    if isinstance(noise, SharedNoise):
        return _draw_like_notebook(noise.generator, count, height, width, low, high, power)
    u_side, u_x, u_y = noise.uniform(3 * count).double().unflatten(1, (3, count)).unbind(1)
    side = (u_side**power * (high - low) + low).long()
    return torch.stack(
        [side, (u_x * (width - side + 1)).long(), (u_y * (height - side + 1)).long()], -1
    )


def _draw_like_notebook(
    generator: torch.Generator,
    count: int,
    height: int,
    width: int,
    low: int,
    high: int,
    power: float,
) -> Tensor:
    """Draws cut by cut, size first, in the order and with the functions that the notebook uses."""
    boxes = []
    for _ in range(count):
        side = int(torch.rand([], generator=generator) ** power * (high - low) + low)
        x = int(torch.randint(0, width - side + 1, (), generator=generator))
        y = int(torch.randint(0, height - side + 1, (), generator=generator))
        boxes.append([side, x, y])
    return torch.tensor(boxes)[None]


def averaging(side: Tensor, offset: Tensor, length: int, cut_size: int) -> Tensor:
    """(..., S, length) float32: row i averages the pixels from floor(i side / S) to, but not
    including, ceil((i + 1) side / S) behind the offset, as adaptive average pooling does."""
    i = torch.arange(cut_size, device=side.device)
    side, offset = side[..., None], offset[..., None]
    first = (i * side) // cut_size + offset  # (..., S)
    last = -((-(i + 1) * side) // cut_size) + offset
    pixel = torch.arange(length, device=side.device)
    inside = (pixel >= first[..., None]) & (pixel < last[..., None])
    return inside.float() / (last - first)[..., None]


def cut(x: Tensor, boxes: Tensor, cut_size: int) -> Tensor:
    """Cuts (N B, 3, S, S) of x (B, 3, H, W), cut by cut: all samples' first cuts come first."""
    side, left, top = boxes.to(x.device).expand(len(x), -1, -1).unbind(-1)  # each (B, N)
    rows = averaging(side, top, x.shape[2], cut_size).to(x)  # (B, N, S, H)
    columns = averaging(side, left, x.shape[3], cut_size).to(x)  # (B, N, S, W)
    out = rows.flatten(1, 2)[:, None] @ x  # (B, 3, N S, W): one product for all cuts of a sample
    out = out.unflatten(2, (-1, cut_size)) @ columns[:, None].transpose(-1, -2)  # (B, 3, N, S, S)
    return out.permute(2, 0, 1, 3, 4).flatten(0, 1)
