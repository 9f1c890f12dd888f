"""DDIM (Song et al. 2020, arXiv 2010.02502): eta 0 is deterministic, eta 1 as random as DDPM."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.interfaces import Step
from acgd.diffusion.noise import Noise
from acgd.diffusion.process import Diffusion
from acgd.diffusion.samplers.guided import guided, steered, timesteps


class DDIM:
    """`steps`: the respacing, e.g. "50" (first and last kept) or "ddim50" (integer stride)."""

    def __init__(self, steps: str | int = "50", eta: float = 0.0):
        self.steps, self.eta = steps, eta

    def __call__(
        self, denoiser: Denoiser, x: Tensor, *, noise: Noise, guide=None, start=0, history=()
    ) -> Iterator[Step]:
        """Steps from x (B,3,H,W) at the first step taken down to the sample; x is all they know."""
        diffusion = denoiser.diffusion
        sigma, prev = self._sigma(diffusion), diffusion.alphas_cumprod_prev
        direction = np.sqrt(np.maximum(1 - prev - sigma**2, 0))
        for index, total, t in timesteps(diffusion, x, start):
            step = guided(denoiser, x, t, guide)
            x0, eps = steered(diffusion, x, t, step)
            # Drawn after the guide's cutouts, and with eta 0 too: with a shared generator the
            # order of draws decides the picture.
            z = noise.like(x)
            x = diffusion.pick(np.sqrt(prev), t) * x0  # (12)
            x = x + diffusion.pick(direction, t) * eps + diffusion.pick(sigma, t) * z
            yield Step(index, total, t, x, step.pred.x0, step.losses)

    def _sigma(self, diffusion: Diffusion) -> np.ndarray:
        """(16): eta times the standard deviation of the posterior; 0 at t = 0."""
        abar, prev = diffusion.alphas_cumprod, diffusion.alphas_cumprod_prev
        return self.eta * np.sqrt((1 - prev) / (1 - abar)) * np.sqrt(1 - abar / prev)
