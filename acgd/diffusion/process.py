"""The diffusion process: tables, respacing, conversions, and what a network says about x_t.

q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I). Equation numbers: DDPM is Ho et al. 2020
(arXiv 2006.11239), IDDPM is Nichol & Dhariwal 2021 (arXiv 2102.09672).
B: samples in the batch; t: (B,) int64, index in the respaced process, 0 is the cleanest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from acgd.errors import UserError


def linear_betas(steps: int) -> np.ndarray:
    """Betas (steps,) from 1e-4 to 0.02 at 1000 steps, scaled by 1000 / steps otherwise."""
    scale = 1000 / steps
    return np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)


def cosine_betas(steps: int, s: float = 0.008) -> np.ndarray:
    """Betas (steps,) for abar(u) = cos^2((u + s) / (1 + s) pi / 2), capped at 0.999 (IDDPM 17)."""

    def abar(u: float) -> float:
        return math.cos((u + s) / (1 + s) * math.pi / 2) ** 2

    betas = [1 - abar((i + 1) / steps) / abar(i / steps) for i in range(steps)]
    return np.minimum(np.array(betas, dtype=np.float64), 0.999)


# A shift of eps moves x0 by sqrt(1 - abar) / sqrt(abar) times as much: below this abar, where x_t
# is nothing but noise, that throws x out of all bounds. Only the first steps of a cosine schedule
# are there (down to 2e-9; the linear one starts at 4e-5): no guidance and no multistep for them.
LEAST_ABAR = 1e-5

SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}


def space_timesteps(steps: int, respacing: str | int | Sequence[int]) -> list[int]:
    """The steps of a process of `steps` that are kept, ascending.

    "ddim50": the first integer stride from 0 that keeps exactly 50 (Song et al. 2020).
    "250", 250: that many, first and last included. "10,10,5" or a list: so many in each of as many
    equal sections. "" keeps all. Raises UserError where the process can't be cut like that.
    """
    if isinstance(respacing, str) and respacing.startswith("ddim"):
        return _ddim_steps(steps, _count(respacing.removeprefix("ddim"), respacing))
    if isinstance(respacing, str):
        respacing = (
            [_count(part, respacing) for part in respacing.split(",")] if respacing else steps
        )
    counts = [respacing] if isinstance(respacing, int) else [int(c) for c in respacing]
    size, extra = divmod(steps, len(counts))
    kept, first = set(), 0
    for section, count in enumerate(counts):
        length = size + (section < extra)
        kept.update(_spread(first, length, count))
        first += length
    if not kept:
        raise UserError(f"sampler.steps={respacing!r} keeps no step: ask for at least one")
    return sorted(kept)


def _count(text: str, respacing: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(
            f"sampler.steps={respacing!r} is not understood: give '50', 'ddim50' or '10,10,5'"
        ) from None


def _ddim_steps(steps: int, count: int) -> list[int]:
    for stride in range(1, steps):
        if len(range(0, steps, stride)) == count:
            return list(range(0, steps, stride))
    raise UserError(f"no integer stride keeps exactly {count} of {steps} steps: try '{count}'")


def _spread(first: int, length: int, count: int) -> list[int]:
    """`count` steps over `length` from `first`; the running sum's rounding is the original's."""
    if not 0 <= count <= length:
        raise UserError(f"cannot keep {count} steps of a section of {length}: ask for fewer")
    stride = (length - 1) / (count - 1) if count > 1 else 1
    kept, position = [], 0.0
    for _ in range(count):
        kept.append(first + round(position))
        position += stride
    return kept


class Diffusion:
    """Tables of a respaced process, float64; values become float32 when they are picked.

    `steps`: length of the process that the network was trained with; `respacing`: which of them
    are kept; `rescale_timesteps`: the network is given floats in [0, 1000) whatever `steps` is;
    `learn_sigma`: the network's output has the variance's channels, else the variance is beta
    ("fixed large").
    """

    def __init__(
        self,
        schedule: str = "linear",
        steps: int = 1000,
        respacing: str | int | Sequence[int] = "",
        rescale_timesteps: bool = True,
        learn_sigma: bool = True,
    ):
        if schedule not in SCHEDULES:
            raise UserError(f"unknown noise schedule {schedule!r}: choose from {list(SCHEDULES)}")
        self.rescale_timesteps, self.learn_sigma, self.base_steps = (
            rescale_timesteps,
            learn_sigma,
            steps,
        )
        self.timestep_map = np.array(space_timesteps(steps, respacing), dtype=np.int64)
        kept = np.cumprod(1 - SCHEDULES[schedule](steps))[self.timestep_map]
        self._fill_tables(1 - kept / np.append(1.0, kept[:-1]))

    def fill_from(self, abar: np.ndarray, final: float = 1.0) -> None:
        """The tables of these abar (n,), cleanest first; `final`: abar after the last step.

        abar may be 0 where the process begins: tables that divide by it are infinite there, and
        what a network says of v or of a flow is read without them.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            self._fill_tables(1 - abar / np.append(final, abar[:-1]), abar, final)

    def _fill_tables(
        self, betas: np.ndarray, abar: np.ndarray | None = None, final: float = 1.0
    ) -> None:
        abar = np.cumprod(1 - betas) if abar is None else abar
        self.betas, self.num_timesteps = betas, len(betas)
        self.alphas_cumprod = abar
        self.alphas_cumprod_prev = np.append(final, abar[:-1])
        self.alphas_cumprod_next = np.append(abar[1:], 0.0)
        self.sqrt_alphas_cumprod = np.sqrt(abar)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1 - abar)
        self.log_one_minus_alphas_cumprod = np.log(1 - abar)
        self.sqrt_recip_alphas_cumprod = np.sqrt(1 / abar)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1 / abar - 1)
        # q(x_{t-1} | x_t, x_0), DDPM (7). Its variance is 0 at t = 0: the log takes that of t = 1.
        self.posterior_variance = betas * (1 - self.alphas_cumprod_prev) / (1 - abar)
        second = self.posterior_variance[1] if len(betas) > 1 else betas[0]
        clipped = np.append(second, self.posterior_variance[1:])
        self.posterior_log_variance_clipped = np.log(clipped)
        self.posterior_mean_coef1 = betas * np.sqrt(self.alphas_cumprod_prev) / (1 - abar)
        self.posterior_mean_coef2 = (1 - self.alphas_cumprod_prev) * np.sqrt(1 - betas) / (1 - abar)
        self.log_betas = np.log(betas)
        self.fixed_large_log_variance = np.log(np.append(second, betas[1:]))

    def pick(self, table: str | np.ndarray, t: Tensor) -> Tensor:
        """Values of a table (by name or as an array) at t: (B, 1, 1, 1) float32 on t's device.

        One number, (), where t is on the CPU and the same for all samples, as samplers have it:
        that goes with a tensor of any device, and no GPU is waited for.
        """
        values = getattr(self, table) if isinstance(table, str) else table
        if t.device.type == "cpu" and bool((t == t[0]).all()):
            return torch.tensor(values[int(t[0])]).float()
        return torch.from_numpy(values[t.cpu().numpy()]).float().to(t.device)[:, None, None, None]

    def model_timesteps(self, t: Tensor) -> Tensor:
        """What the network is given for t: steps of the base process, floats if rescaled."""
        mapped = torch.from_numpy(self.timestep_map).to(t.device)[t]
        return mapped.float() * (1000.0 / self.base_steps) if self.rescale_timesteps else mapped

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t from x_0 and unit normal noise (DDPM 4)."""
        scale = self.pick("sqrt_alphas_cumprod", t)
        return scale * x0 + self.pick("sqrt_one_minus_alphas_cumprod", t) * noise

    def start(self, noise: Tensor, init: Tensor | None = None, skip: int = 0) -> Tensor:
        """x at the first step taken: `init` (B,3,H,W) in [-1,1] diffused by the start noise.

        Skipping steps without an init image starts from diffused mid-grey, that is from noise
        scaled by sqrt(1 - abar), as the original does.
        """
        if not 0 <= skip < self.num_timesteps:
            raise UserError(f"cannot skip {skip} of {self.num_timesteps} steps: one must be left")
        if init is None and skip == 0:
            return noise
        t = torch.full((len(noise),), self.num_timesteps - 1 - skip)
        return self.q_sample(torch.zeros_like(noise) if init is None else init, t, noise)

    def posterior_mean(self, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0) (DDPM 7)."""
        c1, c2 = self.pick("posterior_mean_coef1", t), self.pick("posterior_mean_coef2", t)
        return c1 * x0 + c2 * x

    def x0_from_eps(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        recip, recipm1 = "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"
        return self.pick(recip, t) * x - self.pick(recipm1, t) * eps

    def eps_from_x0(self, x: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        recip, recipm1 = "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"
        return (self.pick(recip, t) * x - x0) / self.pick(recipm1, t)

    def from_v(self, x: Tensor, t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """x0 and eps from v = sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans & Ho, 2202.00512)."""
        a, s = self.pick("sqrt_alphas_cumprod", t), self.pick("sqrt_one_minus_alphas_cumprod", t)
        return a * x - s * v, a * v + s * x

    def log_variance(self, t: Tensor, frac: Tensor | None) -> Tensor:
        """log of the variance of p(x_{t-1} | x_t).

        frac (B,3,H,W), the network's, in [-1, 1] but not clamped, goes between the posterior's and
        beta (IDDPM 15); None: fixed large.
        """
        if frac is None:
            return self.pick("fixed_large_log_variance", t)
        low, high = self.pick("posterior_log_variance_clipped", t), self.pick("log_betas", t)
        frac = (frac + 1) / 2
        return frac * high + (1 - frac) * low
