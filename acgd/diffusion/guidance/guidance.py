"""Guidance: the losses that steer a picture, and their gradients with respect to x and x0.

It knows no UNet. A sampler carries dL/dx0 through the network, or does not (see
`acgd.diffusion.samplers.guided`), so cutout chunks accumulate without holding the UNet's graph.
B: samples, K: targets of the sample that has most, D: embedding size, N: cutouts a sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acgd.diffusion.guidance import losses
from acgd.diffusion.guidance.cutouts import cut, draw_boxes
from acgd.diffusion.guidance.schedules import Constant
from acgd.diffusion.interfaces import Schedule
from acgd.diffusion.noise import Noise
from acgd.diffusion.process import LEAST_ABAR, Diffusion
from acgd.errors import UserError
from acgd.types import Encoder, Member, Target, members


class Guidance:
    """What the samplers call as guide(x, x0, t).

    `encoder`: one, or an Ensemble, whose members see cutouts of their own and whose distances are
    summed by weight. `targets`: a list per sample; lists may differ in length. `noise`: where
    cutouts are drawn from.
    `clip`, `tv`, `range`, `sat`, `init`: weights of the losses, a number or one for each sample;
    `init_image` (B,3,H,W) or (1,3,H,W) in [-1,1].
    `num_cutouts`, `cut_pow`, `cut_min`: see `cutouts.draw_boxes`; `cutout_chunk`: how many cutouts
    a sample has in the encoder at once (None: all).
    `blend`: the encoder, tv, sat and init see x0 f + x (1 - f), f = sqrt(1 - abar), so that x
    itself counts more and more towards the end (the notebook's way); else they see x0. `every`:
    guide each `every`-th step only. `clamp`: the largest root mean square of a sample's gradient.
    `schedule`: progress to a multiplier of the gradient; progress is the place in the respaced
    process, so skipped steps count as done. `audio_weights`: "own", or "text", which multiplies
    the audio targets by the sign of the text targets' total weight, as the notebook does: negative
    prompts then can turn the sound's attraction into repulsion.
    """

    def __init__(
        self,
        encoder: Encoder,
        targets: Sequence[Sequence[Target]],
        diffusion: Diffusion,
        noise: Noise,
        *,
        clip: float | Sequence[float] = 1000.0,
        tv: float | Sequence[float] = 0.0,
        range: float | Sequence[float] = 0.0,
        sat: float | Sequence[float] = 0.0,
        init: float | Sequence[float] = 0.0,
        init_image: Tensor | None = None,
        num_cutouts: int = 16,
        cut_pow: float = 1.0,
        cut_min: float | None = None,
        cutout_chunk: int | None = None,
        through_unet: bool = True,
        blend: bool = True,
        every: int = 1,
        clamp: float | None = None,
        schedule: Schedule | None = None,
        audio_weights: str = "own",
    ):
        if audio_weights not in ("own", "text"):
            raise UserError(f"guidance.audio_weights={audio_weights!r}: choose own or text")
        for name, value in (("num_cutouts", num_cutouts), ("every", every)):
            if value < 1:
                raise UserError(f"guidance.{name}={value} must be 1 or more")
        self.diffusion, self.noise = diffusion, noise
        scales = {"clip": clip, "tv": tv, "range": range, "sat": sat, "init": init}
        self.scales = {name: per_sample(value, len(targets)) for name, value in scales.items()}
        self.init_image = init_image
        if init_image is None:
            self.scales["init"] *= 0
        self.num_cutouts, self.cut_pow, self.cut_min = num_cutouts, cut_pow, cut_min
        self.cutout_chunk = cutout_chunk or num_cutouts
        self.through_unet, self.blend, self.every, self.clamp = through_unet, blend, every, clamp
        self.schedule = schedule or Constant()
        embeds, weights = pack_targets(targets, audio_weights)
        self.views = [View.of(member, embeds, weights) for member in members(encoder)]
        if not any(view.weights.any() for view in self.views):
            self.scales["clip"] *= 0

    def active(self, t: Tensor) -> bool:
        """Whether step t (B,) is guided at all; never where x_t is nothing but noise."""
        if not any(scale.any() for scale in self.scales.values()) or self._multiplier(t) == 0:
            return False
        if self.diffusion.alphas_cumprod[int(t[0])] < LEAST_ABAR:
            return False
        return (self.diffusion.num_timesteps - 1 - int(t[0])) % self.every == 0

    def __call__(
        self, x: Tensor, x0: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """dL/dx, dL/dx0, each (B,3,H,W), and the losses (B,) before scales and schedule.

        A sample's gradient is that of its own loss alone: losses are summed over the batch.
        """
        f = self.diffusion.pick("sqrt_one_minus_alphas_cumprod", t) if self.blend else 1.0
        x_in = (x0 * f + x * (1 - f)).detach()
        found: dict[str, Tensor] = {}
        grad_in = self._picture_losses(x_in, found)
        if self.scales["clip"].any():
            grad_in = grad_in + self.scales["clip"].to(x) * self._clip(x_in, found)
        grad_x0 = grad_in * f
        if self.scales["range"].any():
            excess, grad = _with_grad(losses.out_of_range, x0)
            found["range"] = excess
            grad_x0 = grad_x0 + self.scales["range"].to(x) * grad
        multiplier = self._multiplier(t)
        return grad_in * (1 - f) * multiplier, grad_x0 * multiplier, found

    def limit(self, grad: Tensor) -> Tensor:
        """The gradient with each sample's root mean square at most `clamp`."""
        if self.clamp is None:
            return grad
        rms = grad.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return grad * (self.clamp / rms.clamp(min=self.clamp))

    def _multiplier(self, t: Tensor) -> float:
        last = self.diffusion.num_timesteps - 1
        return self.schedule(1 - int(t[0]) / last if last else 0.0)

    def _picture_losses(self, x_in: Tensor, found: dict[str, Tensor]) -> Tensor:
        """Adds tv, sat and init to `found`; the gradient of their weighted sum."""
        functions = {
            "tv": losses.tv,
            "sat": losses.saturation,
            "init": lambda x: losses.init_distance(x, self.init_image.to(x)),
        }
        total = torch.zeros_like(x_in)
        for name, function in functions.items():
            if self.scales[name].any():
                found[name], grad = _with_grad(function, x_in)
                total = total + self.scales[name].to(x_in) * grad
        return total

    def _clip(self, x_in: Tensor, found: dict[str, Tensor]) -> Tensor:
        """Adds the weighted distance to the targets, mean over cutouts; returns its gradient."""
        grad, found["clip"] = torch.zeros_like(x_in), x_in.new_zeros(len(x_in))
        for view in self.views:
            size = view.encoder.image_size
            boxes = draw_boxes(
                self.noise, self.num_cutouts, *x_in.shape[2:], size, self.cut_pow, self.cut_min
            )
            # pictures no larger than the encoder's: every cut is the whole, one is enough
            boxes = boxes[:, :1] if (boxes == boxes[:, :1]).all() else boxes
            for chunk in boxes.split(self.cutout_chunk, dim=1):
                share = chunk.shape[1] / boxes.shape[1]

                def distance(x: Tensor, view=view, chunk=chunk, share=share, size=size) -> Tensor:
                    return share * view.distance(cut(x, chunk, size))

                part, part_grad = _with_grad(distance, x_in)
                grad, found["clip"] = grad + part_grad, found["clip"] + part
        return grad


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
        apart = losses.spherical_distance(seen[:, :, None], self.embeds)  # (N, B, K)
        return (apart * self.weights).sum(dim=-1).mean(dim=0)


def per_sample(value: float | Sequence[float], count: int) -> Tensor:
    """A weight for each sample, (B, 1, 1, 1) float32."""
    weights = torch.tensor(value, dtype=torch.float32).flatten()
    if len(weights) not in (1, count):
        raise ValueError(f"{len(weights)} weights for {count} samples")
    return weights.expand(count).clone()[:, None, None, None]


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


def _with_grad(function, x: Tensor) -> tuple[Tensor, Tensor]:
    """function(x) (B,) and the gradient of its sum, both detached."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x)
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]
