"""Captions by the embedded captioner: ClipCap in small, over what the embedded judge sees."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from acgd.captioners.clipcap import read_model, shared, square
from acgd.captioners.decoding import Decoding
from acgd.checkpoints import load as checkpoints
from acgd.encoders.audioclip import AudioCLIPEncoder
from acgd.errors import UserError
from acgd.media.preprocess import normalise
from acgd.models.clip import VisionTransformer
from acgd.types import Encoder

# How a picture is looked at: zoom (below 1 is nearer), shift right and down in half pictures.
LOOKS = ((1.0, 0.0, 0.0), (0.8, 0.0, 0.0), (1.2, 0.0, 0.0), (0.95, 0.1, -0.1))


class TinyClipCap:
    """A sentence for each picture, as short as the emoji that it learned from are simple.

    checkpoint: a ClipCap with its tokenizer in the metadata. clip: the model whose picture tower
    it was trained over; the judge's is used when it comes from the same file.
    decoding: the arguments of acgd.captioners.decoding.Decoding.
    """

    def __init__(
        self,
        checkpoint: str = "embedded:tiny_clipcap",
        clip: str = "embedded:tiny_judge",
        decoding: dict[str, Any] | None = None,
        judge: Encoder | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        from tokenizers import Tokenizer

        self.decoding, self.device = Decoding(**(decoding or {})), torch.device(device)
        path = checkpoints.locate(checkpoint)
        self.model = read_model(str(path), {}).to(self.device)
        with safe_open(path, framework="pt") as file:
            tokenizer = (file.metadata() or {}).get("tokenizer")
        if tokenizer is None:
            raise UserError(f"{path}: carries no tokenizer, so it is no captioner's")
        self.tokenizer = Tokenizer.from_str(tokenizer)
        self.stop = self.tokenizer.encode(".").ids[0]
        self.clip = shared(judge, clip) or AudioCLIPEncoder(clip, device=device).model
        if not isinstance(self.clip.visual, VisionTransformer):
            raise UserError(f"captioner.clip={clip}: this captioner reads a ViT's blocks")
        self.tower = self.clip.visual

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[str]:
        """(B, 3, H, W) in [0, 1] of any size to B captions."""
        side = self.clip.image_resolution
        views = looks(square(images.to(self.device).float(), side * 4 // 3))
        seen = torch.stack([glimpse(self.tower, view) for view in views]).mean(0)
        written = self.decoding(self.model, self.model.prefix(seen), self.stop)
        return [self.tokenizer.decode(ids.tolist()).strip() for ids in written]


def looks(images: Tensor) -> list[Tensor]:
    """Each of LOOKS of (N, 3, S, S), and its mirror image.

    A small tower sees something else in each; what is common to them is what is there.
    """
    views = []
    for zoom, right, down in LOOKS:
        for turn in (1.0, -1.0):
            theta = images.new_tensor([[zoom * turn, 0.0, right], [0.0, zoom, down]])
            grid = F.affine_grid(
                theta.expand(len(images), 2, 3), list(images.shape), align_corners=False
            )
            views.append(F.grid_sample(images, grid, padding_mode="border", align_corners=False))
    return views


def glimpse(tower: VisionTransformer, images: Tensor) -> Tensor:
    """(N, 3, S, S) in [0, 1] -> (N, 3 * width): class token, mean and maximum of the patches.

    More than the embedding, which keeps what the words of its training could tell apart.
    """
    side = tower.conv1.kernel_size[0] * round((len(tower.positional_embedding) - 1) ** 0.5)
    x = normalise(F.adaptive_avg_pool2d(images, side)).to(tower.conv1.weight.dtype)
    tokens = tower.ln_post(tower.tokens(x)).float()  # (N, 1 + patches, width)
    patches = tokens[:, 1:]
    return torch.cat([tokens[:, 0], patches.mean(1), patches.amax(1)], 1)
