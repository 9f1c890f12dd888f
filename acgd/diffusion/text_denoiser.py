"""A network that is told in words as a denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.scheduled import Scheduled
from acgd.diffusion.text_networks import Condition, Network, joined
from acgd.diffusion.upload import upload


class TextDenoiser(Denoiser):
    """(x (B,C,H,W), t (B,)) -> Prediction, guided by `given` against `without`.

    cfg_scale, a number or (B,1,1,1): 0 is told `without` alone, 1 `given` alone; others both, in
    one batched call.
    """

    diffusion: Scheduled

    def __init__(
        self,
        network: Network,
        diffusion: Scheduled,
        given: Condition,
        without: Condition,
        cfg_scale: float | Tensor = 1.0,
    ):
        super().__init__(network, diffusion, diffusion.predicts)
        self.given, self.without, self.cfg_scale = given, without, cfg_scale
        self.strength = {float(value) for value in torch.as_tensor(cfg_scale).flatten()}

    def __call__(self, x: Tensor, t: Tensor):
        self.scale = self.diffusion.flow_scale(t)[2] if self.predicts == "flow" else 1.0
        return super().__call__(x, t)

    def _network(self, x: Tensor, timesteps: Tensor) -> Tensor:
        timesteps, x = upload(timesteps, x.device), x * self.scale
        if self.strength == {0.0}:
            return self.unet(x, timesteps, self.without).float()
        if self.strength == {1.0}:
            return self.unet(x, timesteps, self.given).float()
        double = torch.cat([x, x]), torch.cat([timesteps, timesteps])
        out = self.unet(*double, joined(self.given, self.without)).float()
        given, without = out.chunk(2)
        return without + self.cfg_scale * (given - without)
