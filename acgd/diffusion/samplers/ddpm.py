"""Ancestral sampling (Ho et al. 2020, arXiv 2006.11239, algorithm 2), guided by shifting the mean
(Dhariwal & Nichol 2021, arXiv 2105.05233, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.interfaces import Step
from acgd.diffusion.noise import Noise
from acgd.diffusion.samplers.guided import guided, timesteps


class DDPM:
    """`steps`: the respacing, e.g. "250"."""

    def __init__(self, steps: str | int = "250"):
        self.steps = steps

    def __call__(
        self, denoiser: Denoiser, x: Tensor, *, noise: Noise, guide=None, start=0, history=()
    ) -> Iterator[Step]:
        """Steps from x (B,3,H,W) at the first step taken down to the sample; x is all they know."""
        diffusion = denoiser.diffusion
        for index, total, t in timesteps(diffusion, x, start):
            # Drawn before the guide's cutouts, and at the last step too: with a shared generator
            # the order of draws decides the picture.
            z = noise.like(x)
            step = guided(denoiser, x, t, guide)
            mean = diffusion.posterior_mean(step.pred.x0, x, t)
            if step.grad is not None:
                mean = mean - step.pred.log_var.exp() * step.grad
            x = mean if index == total - 1 else mean + (0.5 * step.pred.log_var).exp() * z
            yield Step(index, total, t, x, step.pred.x0, step.losses)
