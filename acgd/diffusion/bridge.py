"""From one encoder's embeddings to another's, by a linear map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.checkpoints import load as checkpoints
from acgd.errors import UserError


class Bridge:
    """bridge(embeds (B, D)) -> (B, E): `weight` (E, D) and `bias` (E,) of a safetensors file that
    scripts/fit_bridge.py wrote. Embeddings are scaled to unit length first."""

    def __init__(self, path: str, device: str | torch.device):
        state = checkpoints.load_state(checkpoints.locate(path))
        if set(state) != {"weight", "bias"} or state["weight"].ndim != 2:
            raise UserError(f"model.bridge={path}: is no bridge; scripts/fit_bridge.py makes one")
        self.path = path
        self.weight, self.bias = (state[name].float().to(device) for name in ("weight", "bias"))

    def __call__(self, embeds: Tensor) -> Tensor:
        if embeds.shape[1] != self.weight.shape[1]:
            raise UserError(
                f"model.bridge={self.path}: begins at {self.weight.shape[1]} numbers, the encoder's"
                f" embeddings have {embeds.shape[1]}: fit one for this encoder"
            )
        return F.linear(F.normalize(embeds.to(self.weight), dim=-1), self.weight, self.bias)
