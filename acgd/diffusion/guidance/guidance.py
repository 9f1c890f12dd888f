"""Guidance: the losses that steer a picture, and their gradients with respect to x and x0.

It knows no UNet. A sampler carries dL/dx0 through the network, or does not (see
`acgd.diffusion.samplers.guided`), so a loss may work through its cutouts chunk by chunk without
holding the UNet's graph. B: samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from acgd.diffusion.guidance.loss import Loss
from acgd.diffusion.guidance.schedules import Constant
from acgd.diffusion.interfaces import Schedule
from acgd.diffusion.process import LEAST_ABAR, Diffusion
from acgd.errors import UserError


class Guidance:
    """What the samplers call as guide(x, x0, t).

    `losses` by name; `weights`: of each loss, a number or one for each sample (0 switches it off
    for that sample). `blend`: the losses see x0 f + x (1 - f), f = sqrt(1 - abar), so that x itself
    counts more and more towards the end (the notebook's way), but for those with `sees_x0`; else
    all see x0. `every`: guide each `every`-th step only. `clamp`: the largest root mean square of a
    sample's gradient. `schedule`: progress to a multiplier of the gradient; progress is the place
    in the respaced process, so skipped steps count as done.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        losses: Mapping[str, Loss],
        weights: Mapping[str, float | Sequence[float]],
        *,
        through_unet: bool = True,
        blend: bool = True,
        every: int = 1,
        clamp: float | None = None,
        schedule: Schedule | None = None,
    ):
        if every < 1:
            raise UserError(f"guidance.every={every} must be 1 or more")
        self.diffusion, self.losses = diffusion, losses
        self.weights = {name: per_sample(weights[name]) for name in losses}
        self.acting = [name for name in losses if self.weights[name].any() and losses[name].active]
        self.through_unet, self.blend, self.every, self.clamp = through_unet, blend, every, clamp
        self.schedule = schedule or Constant()

    def active(self, t: Tensor) -> bool:
        """Whether step t (B,) is guided at all; never where x_t is nothing but noise."""
        if not self.acting or self._multiplier(t) == 0:
            return False
        if self.diffusion.alphas_cumprod[int(t[0])] < LEAST_ABAR:
            return False
        return (self.diffusion.num_timesteps - 1 - int(t[0])) % self.every == 0

    def __call__(
        self, x: Tensor, x0: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """dL/dx, dL/dx0, each (B,3,H,W), and the losses (B,) before weights and schedule.

        A sample's gradient is that of its own loss alone: losses are summed over the batch.
        """
        f = self.diffusion.pick("sqrt_one_minus_alphas_cumprod", t) if self.blend else 1.0
        x_in = (x0 * f + x * (1 - f)).detach()
        grad_in, grad_own = torch.zeros_like(x_in), torch.zeros_like(x0)
        values: dict[str, Tensor] = {}
        for name in self.acting:
            loss, weight = self.losses[name], self.weights[name].to(x)
            values[name], grad = loss.with_grad(x0 if loss.sees_x0 else x_in)
            if loss.sees_x0:
                grad_own = grad_own + weight * grad
            else:
                grad_in = grad_in + weight * grad
        multiplier = self._multiplier(t)
        return grad_in * (1 - f) * multiplier, (grad_in * f + grad_own) * multiplier, values

    def limit(self, grad: Tensor) -> Tensor:
        """The gradient with each sample's root mean square at most `clamp`."""
        if self.clamp is None:
            return grad
        rms = grad.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return grad * (self.clamp / rms.clamp(min=self.clamp))

    def _multiplier(self, t: Tensor) -> float:
        last = self.diffusion.num_timesteps - 1
        return self.schedule(1 - int(t[0]) / last if last else 0.0)


def per_sample(weight: float | Sequence[float]) -> Tensor:
    """A weight for each sample, or the one for all: (B or 1, 1, 1, 1) float32."""
    return torch.tensor(weight, dtype=torch.float32).flatten()[:, None, None, None]
