"""Consistency sampling for models distilled to few steps (Luo et al. 2023, arXiv 2310.04378).

Each step jumps to the picture, c_skip x + c_out x0 with the weights that the distillation used, and
puts new noise on it for the next one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.interfaces import Step
from acgd.diffusion.noise import Noise
from acgd.diffusion.samplers.guided import guided, steered, timesteps

DATA = 0.5  # standard deviation of the data, by convention
TIMES = 10.0  # what timesteps are multiplied by


class LCM:
    """`steps`: the respacing; 4 to 8 for most models."""

    def __init__(self, steps: str | int = "4"):
        self.steps = steps

    def __call__(
        self, denoiser: Denoiser, x: Tensor, *, noise: Noise, guide=None, start=0, history=()
    ) -> Iterator[Step]:
        """Steps from x (B,C,H,W) at the first step taken down to the sample; x is all they know."""
        diffusion = denoiser.diffusion
        time = TIMES * diffusion.timestep_map.astype(np.float64)
        skip = DATA**2 / (time**2 + DATA**2)
        out = time / np.sqrt(time**2 + DATA**2)
        prev = diffusion.alphas_cumprod_prev
        for index, total, t in timesteps(diffusion, x, start):
            step = guided(denoiser, x, t, guide)
            x0, _ = steered(diffusion, x, t, step)
            x = diffusion.pick(out, t) * x0 + diffusion.pick(skip, t) * x
            if index < total - 1:
                z = noise.like(x)
                x = diffusion.pick(np.sqrt(prev), t) * x + diffusion.pick(np.sqrt(1 - prev), t) * z
            yield Step(index, total, t, x, step.pred.x0, step.losses)
