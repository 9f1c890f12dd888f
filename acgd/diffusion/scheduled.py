"""A process as the config of a diffusers scheduler describes it.

Flow matching is the same process in other words. It goes x_s = (1 - s) x0 + s n and predicts
n - x0 (Liu et al. 2022, arXiv 2209.03003). Divided by sqrt((1 - s)^2 + s^2) that is the x_t of a
process that keeps variance, with sqrt(abar) : sqrt(1 - abar) = (1 - s) : s, and a step of DDIM
there is a step of Euler here. So every sampler, and guidance, takes flow models as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from acgd.diffusion.process import Diffusion, cosine_betas, space_timesteps
from acgd.errors import UserError


class Scheduled(Diffusion):
    """config: scheduler_config.json; respacing: a number of steps is spaced as the config says
    (`timestep_spacing`), "ddim50" and sections as elsewhere. tokens: patches of a latent picture,
    for flow models whose noise depends on the size. `predicts`: "eps", "v", "x0" or "flow".
    UserError for a scheduler that is none of these.
    """

    learn_sigma = False

    def __init__(
        self, config: Mapping[str, Any], respacing: str | int | Sequence[int] = "", tokens: int = 0
    ):
        self.base_steps = int(config.get("num_train_timesteps", 1000))
        self.predicts = prediction(config)
        if self.predicts == "flow":
            noise = flow_noise(config, respacing, self.base_steps, tokens)
            self.timestep_map = noise * self.base_steps  # the network is told how much noise
            kept, final = (1 - noise) ** 2 / ((1 - noise) ** 2 + noise**2), 1.0
        else:
            abar = alphas(config, self.base_steps)
            self.timestep_map = spaced(config, respacing, self.base_steps)
            kept = abar[self.timestep_map]
            final = 1.0 if config.get("set_alpha_to_one", True) else float(abar[0])
        self.fill_from(kept, final)

    def model_timesteps(self, t: Tensor) -> Tensor:
        return torch.from_numpy(self.timestep_map).to(t.device)[t]

    def flow_scale(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """sqrt(abar), sqrt(1 - abar), and what x_t is multiplied by to be the flow's x_s."""
        a, b = self.pick("sqrt_alphas_cumprod", t), self.pick("sqrt_one_minus_alphas_cumprod", t)
        return a, b, 1 / (a + b)

    def from_flow(self, x: Tensor, t: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """x0 and eps from n - x0: x0 = x_s - s (n - x0), n = x_s + (1 - s) (n - x0)."""
        a, b, scale = self.flow_scale(t)
        return scale * (x - b * velocity), scale * (x + a * velocity)


def prediction(config: Mapping[str, Any]) -> str:
    name = str(config.get("_class_name", ""))
    if name.startswith("FlowMatch"):
        return "flow"
    kinds = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
    kind = str(config.get("prediction_type", "epsilon"))
    if kind not in kinds:
        raise UserError(f"a scheduler that predicts {kind!r}: known are {', '.join(kinds)}")
    return kinds[kind]


def alphas(config: Mapping[str, Any], steps: int) -> np.ndarray:
    """abar (steps,) of the base process, float64."""
    first, last = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    kind = str(config.get("beta_schedule", "linear"))
    if config.get("trained_betas") is not None:
        betas = np.asarray(config["trained_betas"], np.float64)
    elif kind == "linear":
        betas = np.linspace(first, last, steps)
    elif kind == "scaled_linear":
        betas = np.linspace(first**0.5, last**0.5, steps) ** 2
    elif kind == "squaredcos_cap_v2":
        betas = cosine_betas(steps)
    else:
        raise UserError(
            f"a scheduler with beta_schedule {kind!r}: known are linear, scaled_linear and "
            "squaredcos_cap_v2"
        )
    abar = np.cumprod(1 - betas)
    return without_signal_at_the_end(abar) if config.get("rescale_betas_zero_snr") else abar


def without_signal_at_the_end(abar: np.ndarray) -> np.ndarray:
    """abar that ends at 0 (Lin et al. 2023, arXiv 2305.08891, algorithm 1)."""
    root = np.sqrt(abar)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def spaced(
    config: Mapping[str, Any], respacing: str | int | Sequence[int], steps: int
) -> np.ndarray:
    """The timesteps that are kept, ascending, (n,) int64."""
    if not str(respacing).isdigit():
        return np.array(space_timesteps(steps, respacing), np.int64)
    count, kind = int(str(respacing)), str(config.get("timestep_spacing", "leading"))
    if not 0 < count <= steps:
        raise UserError(f"sampler.steps={respacing}: this process has {steps} steps")
    if config.get("_class_name") == "LCMScheduler":  # of those that the distillation skipped to
        origin = int(config.get("original_inference_steps", 50))
        grid = (np.arange(1, origin + 1) * (steps // origin) - 1)[::-1]
        kept = grid[np.floor(np.linspace(0, origin, count, endpoint=False)).astype(int)]
    elif kind == "leading":
        kept = np.arange(count) * (steps // count) + int(config.get("steps_offset", 0))
        kept = np.minimum(kept, steps - 1)
    elif kind == "trailing":
        kept = np.round(np.arange(steps, 0, -steps / count))[:count][::-1] - 1
    else:
        kept = np.linspace(0, steps - 1, count).round()
    return np.unique(kept.astype(np.int64))


def flow_noise(
    config: Mapping[str, Any], respacing: str | int | Sequence[int], steps: int, tokens: int
) -> np.ndarray:
    """The shares of noise s of the kept steps, ascending, (n,) in (0, 1]."""
    if str(respacing).isdigit():
        shares = np.linspace(1 / steps, 1, int(str(respacing)))
        if not config.get("use_dynamic_shifting"):
            # the even grid reaches down to the least noise after its shift
            least = shifted(np.array([1 / steps]), float(config.get("shift", 1.0)))[0]
            shares = np.linspace(least, 1, int(str(respacing)))
    else:
        shares = (np.array(space_timesteps(steps, respacing)) + 1) / steps
    if not config.get("use_dynamic_shifting"):
        return shifted(shares, float(config.get("shift", 1.0)))
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    grown = low + (high - low) * (tokens - few) / (many - few)
    factor = grown if config.get("time_shift_type") == "linear" else math.exp(grown)
    return shifted(shares, factor)


def shifted(shares: np.ndarray, factor: float) -> np.ndarray:
    """More steps where there is more noise, as large pictures want (Esser et al. 2024,
    arXiv 2403.03206, equation 23)."""
    return factor * shares / (1 + (factor - 1) * shares)
