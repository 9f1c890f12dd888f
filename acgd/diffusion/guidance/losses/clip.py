"""Distance between what an encoder sees in the picture and what it is steered towards.

B: samples, K: targets of the sample that has most, D: embedding size, N: cutouts a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.diffusion.guidance.cutouts import cut, draw_boxes
from acgd.diffusion.guidance.loss import Loss, value_and_grad
from acgd.diffusion.noise import Noise
from acgd.diffusion.upload import upload
from acgd.errors import UserError
from acgd.types import Encoder, Member, Target, members, sees


class ClipDistance(Loss):
    """Weighted spherical distance to the targets, mean over random cutouts of the picture.

    `encoder`: one, or an Ensemble, whose members see cutouts of their own and whose distances are
    summed by weight among those that see. `targets`: a list for each sample; lists may differ in
    length. `noise`: where cutouts are drawn from, anew at each call. `num_cutouts`, `cut_pow`,
    `cut_min`: see `cutouts.draw_boxes`; `cutout_chunk`: how many cutouts a sample has in the
    encoder at once (None: all). `audio_weights`: "own", or "text", which multiplies the audio
    targets by the sign of the text targets' total weight, as the notebook does: negative prompts
    then can turn the sound's attraction into repulsion.
    """

    def __init__(
        self,
        encoder: Encoder,
        targets: Sequence[Sequence[Target]],
        noise: Noise,
        num_cutouts: int = 16,
        cut_pow: float = 1.0,
        cut_min: float | None = None,
        cutout_chunk: int | None = None,
        audio_weights: str = "own",
    ):
        if audio_weights not in ("own", "text"):
            raise UserError(f"guidance.audio_weights={audio_weights!r}: choose own or text")
        if num_cutouts < 1:
            raise UserError(f"guidance.num_cutouts={num_cutouts} must be 1 or more")
        self.noise, self.num_cutouts, self.cut_pow, self.cut_min = (
            noise,
            num_cutouts,
            cut_pow,
            cut_min,
        )
        self.cutout_chunk = cutout_chunk or num_cutouts
        embeds, weights = pack_targets(targets, audio_weights)
        self.views = [View.of(member, embeds, weights) for member in seeing(encoder)]
        self.active = any(bool(view.weights.any()) for view in self.views)

    def __call__(self, x: Tensor) -> Tensor:
        first, *others = [part(x) for part in self._parts(x)]
        return sum(others, first)

    def with_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As Loss, a chunk of cutouts at a time, so that memory holds the graph of one only."""
        value, grad = x.new_zeros(len(x)), torch.zeros_like(x)
        for part in self._parts(x):
            own, own_grad = value_and_grad(part, x)
            value, grad = value + own, grad + own_grad
        return value, grad

    def _parts(self, x: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
        """The loss as a sum of functions, one for each encoder and chunk of cutouts."""
        for view in self.views:
            if len(view.embeds) != len(x):
                raise ValueError(f"targets for {len(view.embeds)} samples, pictures of {len(x)}")
            size = view.encoder.image_size
            height, width = x.shape[2:]
            boxes = draw_boxes(
                self.noise, self.num_cutouts, height, width, size, self.cut_pow, self.cut_min
            )
            # pictures no larger than the encoder's: every cut is the whole, one is enough
            boxes = boxes[:, :1] if (boxes == boxes[:, :1]).all() else boxes
            for chunk in upload(boxes, x.device).split(self.cutout_chunk, dim=1):
                share = chunk.shape[1] / boxes.shape[1]

                def part(x: Tensor, view=view, chunk=chunk, share=share, size=size) -> Tensor:
                    return share * view.distance(cut(x, chunk, size))

                yield part


def seeing(encoder: Encoder) -> list[Member]:
    """The members that see, their weights summing to 1 again."""
    found = [member for member in members(encoder) if sees(member.encoder)]
    total = sum(member.weight for member in found)
    return [member._replace(weight=member.weight / total) for member in found]


@dataclass
class View:
    """An encoder with the targets as it sees them; an ensemble has several.

    embeds (B, K, D), weights (B, K).
    """

    encoder: Encoder
    embeds: Tensor
    weights: Tensor

    @classmethod
    def of(cls, member: Member, embeds: Tensor, weights: Tensor) -> View:
        """The member's part of the embeddings; targets that it has none of weigh nothing."""
        embeds = embeds[..., member.part]
        return cls(member.encoder, embeds, weights * member.weight * embeds.any(dim=-1))

    def distance(self, cuts: Tensor) -> Tensor:
        """Weighted distance to the targets (B,), mean over the cuts (N B, 3, S, S) in [-1, 1]."""
        self.embeds, self.weights = self.embeds.to(cuts), self.weights.to(cuts)
        seen = self.encoder.image((cuts + 1) / 2).unflatten(0, (-1, len(self.embeds)))  # (N, B, D)
        apart = spherical_distance(seen[:, :, None], self.embeds)  # (N, B, K)
        return (apart * self.weights).sum(dim=-1).mean(dim=0)


def spherical_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared great-circle distance between directions, 2 arcsin(|a - b| / 2)^2 for unit vectors.

    Broadcasts over all but the last dimension, which it removes; 0 for the same direction, pi^2 / 2
    for opposite ones. Written with atan2(|a - b|, |a + b|), the same angle, whose gradient is
    finite (zero) at both ends, where that of arcsin is not.
    """
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    angle = torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))
    return 2 * angle**2


def pack_targets(
    targets: Sequence[Sequence[Target]], audio_weights: str = "own"
) -> tuple[Tensor, Tensor]:
    """Embeddings (B, K, D) and weights (B, K); shorter lists are filled up with weight zero."""
    if not any(targets):
        return torch.zeros(len(targets), 1, 1), torch.zeros(len(targets), 1)
    dim = next(t.embed.shape[0] for row in targets for t in row)
    most = max(len(row) for row in targets)
    embeds, weights = torch.ones(len(targets), most, dim), torch.zeros(len(targets), most)
    for b, row in enumerate(targets):
        text = sum(t.weight for t in row if t.kind == "text")
        for k, target in enumerate(row):
            follows = audio_weights == "text" and target.kind == "audio" and text != 0
            embeds[b, k] = target.embed.detach().float().cpu()
            weights[b, k] = target.weight * (math.copysign(1, text) if follows else 1)
    return embeds, weights
