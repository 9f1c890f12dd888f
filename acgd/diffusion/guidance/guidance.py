"""Guidance: the losses that steer a picture, and their gradients with respect to x and x0.

It knows no UNet. A sampler carries dL/dx0 through the network, or does not (see
`acgd.diffusion.samplers.guided`), so a loss may work through its cutouts chunk by chunk without
holding the UNet's graph. B: samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from acgd.diffusion.guidance.loss import Loss, carry_back
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
    in the respaced process, so skipped steps count as done. `decode`: from what is sampled to the
    pixels (B, 3, S, S) that the losses see; None: they are the same.
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
        decode: Callable[[Tensor], Tensor] | None = None,
    ):
        if every < 1:
            raise UserError(f"guidance.every={every} must be 1 or more")
        self.diffusion, self.losses, self.decode = diffusion, losses, decode
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
        """dL/dx, dL/dx0, each of x's shape, and the losses (B,) before weights and schedule.

        A sample's gradient is that of its own loss alone: losses are summed over the batch. Raises
        ValueError where targets, weights or what a loss returns are not as many as the pictures.
        """
        values: dict[str, Tensor] = {}
        multiplier = self._multiplier(t)
        if not self.blend:
            grad = self._gradient(self.acting, x0, values)
            return torch.zeros_like(grad), grad * multiplier, values
        f = self.diffusion.pick("sqrt_one_minus_alphas_cumprod", t)
        blended = [name for name in self.acting if not self.losses[name].sees_x0]
        grad_in = self._gradient(blended, x0 * f + x * (1 - f), values)
        plain = [name for name in self.acting if self.losses[name].sees_x0]
        grad_x0 = grad_in * f + self._gradient(plain, x0, values)
        return grad_in * (1 - f) * multiplier, grad_x0 * multiplier, values

    def _gradient(self, names: list[str], x: Tensor, values: dict[str, Tensor]) -> Tensor:
        """The weighted gradient at x of these losses, whose values join `values`.

        Where x is latents the losses see it decoded, once, and one vector-Jacobian product carries
        their gradients back through the decoder.
        """
        if self.decode is None or not names:
            return self._pixel_gradient(names, x.detach(), values)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            pixels = self.decode(x)
        grad = self._pixel_gradient(names, pixels.detach(), values)
        return grad if pixels is x else carry_back(grad, pixels, x)

    def _pixel_gradient(self, names: list[str], x: Tensor, values: dict[str, Tensor]) -> Tensor:
        grad = torch.zeros_like(x)
        for name in names:
            values[name], own = self.losses[name].with_grad(x)
            counts = {"values": values[name].numel(), "weights": len(self.weights[name])}
            if counts["values"] != len(x) or counts["weights"] not in (1, len(x)):
                # broadcast, they would pull a picture by another's loss, or too strongly
                raise ValueError(f"loss {name}: {counts} for {len(x)} pictures")
            self.weights[name] = self.weights[name].to(x)  # once: it stays on the device
            grad = grad + self.weights[name] * own
        return grad

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
