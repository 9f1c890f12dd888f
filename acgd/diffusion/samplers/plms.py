"""Pseudo linear multistep (Liu et al. 2022, arXiv 2202.09778): Adams-Bashforth on eps.

The first step is an improved Euler step with two model calls, later ones have one. A single step,
and order 1, are plain Euler steps (DDIM), which the original can't do. No noise is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.interfaces import Step
from acgd.diffusion.noise import Noise
from acgd.diffusion.process import LEAST_ABAR, Diffusion
from acgd.diffusion.samplers.guided import guided, steered, timesteps
from acgd.errors import UserError

# Weights of eps, newest first, by how many there are.
ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


class PLMS:
    """`steps`: the respacing, e.g. "50"; `order`: 1 to 4; `cautious`: plain Euler steps where x_t
    is pure noise, as at the start of a cosine schedule (the original has none)."""

    def __init__(self, steps: str | int = "50", order: int = 2, cautious: bool = True):
        if order not in ADAMS_BASHFORTH:
            raise UserError(f"sampler.order={order}: PLMS has orders 1, 2, 3 and 4")
        self.steps, self.order, self.cautious = steps, order, cautious

    def __call__(
        self, denoiser: Denoiser, x: Tensor, *, noise: Noise, guide=None, start=0, history=()
    ) -> Iterator[Step]:
        """Steps from x (B,3,H,W) at the first step taken down to the sample.

        `history`, of the last step before an interruption, makes what follows the same.
        """
        diffusion = denoiser.diffusion
        history = list(history)  # eps, newest first
        for index, total, t in timesteps(diffusion, x, start):
            step = guided(denoiser, x, t, guide)
            x0, eps = steered(diffusion, x, t, step)
            history = [eps, *history][: self.order]
            if index == total - 1:
                x = x0
            elif self.cautious and diffusion.alphas_cumprod[int(t[0])] < LEAST_ABAR:
                x, history = _euler(diffusion, x, t, eps), []  # eps says nothing of x0 here
            elif len(history) == 1 and self.order > 1:
                ahead = _euler(diffusion, x, t, eps)
                again = steered(diffusion, ahead, t - 1, guided(denoiser, ahead, t - 1, guide))
                x = _euler(diffusion, x, t, (eps + again[1]) / 2)
            else:
                weights = ADAMS_BASHFORTH[len(history)]
                parts = [w * e for w, e in zip(weights, history, strict=True)]
                mixed = sum(parts[1:], parts[0])
                x = _euler(diffusion, x, t, mixed)
            yield Step(index, total, t, x, step.pred.x0, step.losses, tuple(history))


def _euler(diffusion: Diffusion, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x_{t-1} along a constant eps."""
    prev = diffusion.alphas_cumprod_prev
    x0 = diffusion.pick(np.sqrt(prev), t) * diffusion.x0_from_eps(x, t, eps)
    return x0 + diffusion.pick(np.sqrt(1 - prev), t) * eps
