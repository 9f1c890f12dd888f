"""What all samplers share: the steps to take, and a prediction with the guidance's gradient.

A guide is called as guide(x, x0, t) -> (dL/dx, dL/dx0, losses), see `Guidance`; its `active(t)`
says whether it wants this step, `through_unet` how dL/dx0 reaches x, and `limit(grad)` has the
last word on the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.guidance.loss import carry_back
from acgd.diffusion.interfaces import Prediction
from acgd.diffusion.process import Diffusion
from acgd.errors import UserError

# V of x0_jacobian. Pixels vary less, but guidance acts along what varies more than a pixel: 4 comes
# within a factor of 1.7 of the embedded UNet's gradients for abar above 0.05 (through x0 they are
# weaker before, stronger after), 1 would be 9 times too weak at the start.
VARIANCE = 4.0


class Guided(NamedTuple):
    pred: Prediction  # the model's own, before guidance
    grad: Tensor | None  # dL/dx (B,3,H,W) at x_t, to go against; None without guidance
    losses: dict[str, Tensor]


def timesteps(diffusion: Diffusion, x: Tensor, start: int) -> Iterator[tuple[int, int, Tensor]]:
    """(index, total, t (B,) on the CPU) for each step left after skipping the first `start`."""
    total = diffusion.num_timesteps - start
    if not 0 < total <= diffusion.num_timesteps:
        raise UserError(f"cannot skip {start} of {diffusion.num_timesteps} steps: one must be left")
    for index in range(total):
        yield index, total, torch.full((len(x),), total - 1 - index)


def guided(denoiser: Denoiser, x: Tensor, t: Tensor, guide=None) -> Guided:
    """The prediction at x_t and the total gradient of the guide's loss with respect to x_t.

    Through the UNet (the notebook's way) one vector-Jacobian product carries dL/dx0 back:
    dL/dx = (dL/dx)_direct + (dx0/dx)^T dL/dx0. Otherwise no graph of the UNet is built and dx0/dx
    is a number, `x0_jacobian`.
    """
    if guide is None or not guide.active(t):
        with torch.no_grad():
            return Guided(denoiser(x, t), None, {})
    with torch.set_grad_enabled(guide.through_unet):
        x_in = x.detach().requires_grad_(guide.through_unet)
        pred = denoiser(x_in, t)
    prediction = Prediction(*(value.detach() for value in pred))
    grad_x, grad_x0, losses = guide(x, prediction.x0, t)
    grad = torch.zeros_like(x) if grad_x is None else grad_x
    if grad_x0 is not None and guide.through_unet:
        grad = grad + carry_back(grad_x0, pred.x0, x_in)
    elif grad_x0 is not None:
        grad = grad + x0_jacobian(denoiser.diffusion, t) * grad_x0
    return Guided(prediction, guide.limit(grad), losses)


def x0_jacobian(diffusion: Diffusion, t: Tensor) -> Tensor:
    """The number, (B,1,1,1), that stands for dx0/dx where guidance does not go through the UNet.

    That of the ideal denoiser of independent normal data of some variance V:
    sqrt(abar) V / (abar V + 1 - abar). Holding eps fixed would give 1 / sqrt(abar) instead, over
    100 at the start of a run, where hardly anything is known of x0. Both end at 1.
    """
    abar = diffusion.alphas_cumprod
    return diffusion.pick(np.sqrt(abar) * VARIANCE / (abar * VARIANCE + 1 - abar), t)


def steered(diffusion: Diffusion, x: Tensor, t: Tensor, step: Guided) -> tuple[Tensor, Tensor]:
    """x0 and eps after guidance: eps moves by sqrt(1 - abar) dL/dx and x0 follows from it.

    Dhariwal & Nichol 2021 (arXiv 2105.05233), algorithm 2, with -dL/dx for the log probability.
    """
    if step.grad is None:
        return step.pred.x0, step.pred.eps
    eps = step.pred.eps + diffusion.pick("sqrt_one_minus_alphas_cumprod", t) * step.grad
    return diffusion.x0_from_eps(x, t, eps), eps
