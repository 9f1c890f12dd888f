"""What a loss is: one number for each sample, and its gradient at the picture that it sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor


class Loss(ABC):
    """A loss of your own needs `__call__` alone; conf/guidance/*.yaml names it under `losses`.

    Its constructor is offered what guidance knows and takes what it names: encoder, targets (a
    list for each sample), noise, diffusion, init_image, and every plain key of the guidance config
    (num_cutouts, cut_pow, your own). Its weight is the guidance key of the loss's name.
    """

    sees_x0 = False  # True: the prediction itself, also where guidance blends it with x
    active = True  # False: nothing to minimise here, whatever the weight

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), nominally in [-1, 1], to (B,): never averaged over the batch."""

    def with_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The loss (B,) and its gradient (B, 3, H, W), both detached."""
        return value_and_grad(self, x)


def value_and_grad(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """function(x) (B,) and the gradient of its sum, both detached."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x)
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def carry_back(grad: Tensor, output: Tensor, x: Tensor) -> Tensor:
    """dL/dx from grad = dL/doutput, of output's shape: one vector-Jacobian product.

    Written as the gradient of a number. Handed a gradient, torch.autograd.grad imports the
    compiler's symbols and with them sympy, a quarter of a second before the first step.
    """
    with torch.enable_grad():
        return torch.autograd.grad((output * grad).sum(), x)[0]
