"""DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): multistep on x0.

With alpha = sqrt(abar), sigma = sqrt(1 - abar), lambda = log(alpha / sigma) of the respaced grid
and h the step in lambda: x_{t-1} = sigma_{t-1} / sigma_t x_t - alpha_{t-1} (exp(-h) - 1) D, where D
continues x0 along lambda by half a step. The last step goes to x0. No noise is drawn.

One departure: D lies at most `ahead` = 1/2 of the last step ahead, the value of an even grid. The
respaced grid's steps in lambda grow fourfold at the end, where x0 has settled, and the published
rule then overshoots: at 25 steps it ends 18 % off the exact answer for normal data, DDIM 11 %, the
limited rule 0.5 %.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.interfaces import Step
from acgd.diffusion.noise import Noise
from acgd.diffusion.process import Diffusion
from acgd.diffusion.samplers.guided import guided, steered, timesteps
from acgd.errors import UserError


class DPMSolverPP:
    """`steps`: the respacing, e.g. "40"; `order`: 2 (2M), or 1, which is DDIM with eta 0; `ahead`:
    the limit above, None for the published rule."""

    def __init__(self, steps: str | int = "40", order: int = 2, ahead: float | None = 0.5):
        if order not in (1, 2):
            raise UserError(f"sampler.order={order}: DPM-Solver++ has orders 1 and 2 here")
        self.steps, self.order, self.ahead = steps, order, ahead

    def __call__(
        self, denoiser: Denoiser, x: Tensor, *, noise: Noise, guide=None, start=0, history=()
    ) -> Iterator[Step]:
        """Steps from x (B,3,H,W) at the first step taken down to the sample.

        `history`, of the last step before an interruption, makes what follows the same.
        """
        diffusion = denoiser.diffusion
        x0_last = history[0] if history else None
        (keep, move), ahead = _weights(diffusion), _ahead(diffusion, self.ahead)
        for index, total, t in timesteps(diffusion, x, start):
            step = guided(denoiser, x, t, guide)
            x0, _ = steered(diffusion, x, t, step)
            target = x0
            if self.order == 2 and x0_last is not None and index < total - 1:
                target = x0 + diffusion.pick(ahead, t) * (x0 - x0_last)
            x = diffusion.pick(keep, t) * x + diffusion.pick(move, t) * target
            x0_last = x0
            yield Step(index, total, t, x, step.pred.x0, step.losses, (x0_last,))


def _weights(diffusion: Diffusion) -> tuple[np.ndarray, np.ndarray]:
    """sigma_{t-1} / sigma_t, and -alpha_{t-1} (exp(-h) - 1) written without logarithms."""
    abar, prev = diffusion.alphas_cumprod, diffusion.alphas_cumprod_prev.copy()
    prev[0] = 1.0  # to x0, also where a process stops a little before it
    keep = np.sqrt((1 - prev) / (1 - abar))
    return keep, np.sqrt(prev) - np.sqrt(abar) * keep


def _ahead(diffusion: Diffusion, limit: float | None) -> np.ndarray:
    """h / (2 h_last) for each t; not used, and 0, at the first and last step of the process."""
    abar = diffusion.alphas_cumprod
    with np.errstate(divide="ignore"):  # abar may begin at 0: a step without an end
        h = -np.diff(0.5 * np.log(abar / (1 - abar)))  # h[i]: from t = i + 1 to i
    ahead = np.zeros_like(abar)
    ahead[1:-1] = h[:-1] / (2 * h[1:])
    return ahead if limit is None else np.minimum(ahead, limit)
