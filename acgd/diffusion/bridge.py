"""From one encoder's embeddings to another's, by a linear map."""

from __future__ import annotations

from typing import Any

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
        if set(state) != {"weight", "bias"} or state["weight"].shape[:-1] != state["bias"].shape:
            raise UserError(f"model.bridge={path}: is no bridge; scripts/fit_bridge.py makes one")
        if not all(one.isfinite().all() for one in state.values()):
            raise UserError(f"model.bridge={path}: holds numbers that are none (NaN); fit it again")
        self.path = path
        self.weight, self.bias = (state[name].float().to(device) for name in ("weight", "bias"))

    def __call__(self, embeds: Tensor) -> Tensor:
        if embeds.shape[1] != self.weight.shape[1]:
            raise UserError(
                f"model.bridge={self.path}: begins at {self.weight.shape[1]} numbers, the encoder's"
                f" embeddings have {embeds.shape[1]}: fit one for this encoder"
            )
        return F.linear(F.normalize(embeds.to(self.weight), dim=-1), self.weight, self.bias)


def picture_numbers(network: Any) -> int:
    """The size of the picture embeddings that unCLIP takes; 0 for networks that take none."""
    if network.config.get("class_embed_type") != "projection":
        return 0
    return int(network.config.projection_class_embeddings_input_dim) // 2  # beside the noise level


def bridged(path: str | None, numbers: int, device: str | torch.device) -> Bridge | None:
    """The way to a network's picture embeddings; None where it takes none (0 numbers)."""
    if not numbers:
        if path is not None:
            raise UserError(
                f"model.bridge={path}: this model takes no picture embeddings: "
                "model.bridge=null, or give it model.ip_adapter="
            )
        return None
    if path is None:
        raise UserError(
            "this model takes picture embeddings: model.bridge= leads there from the encoder's "
            "(scripts/fit_bridge.py makes one)"
        )
    bridge = Bridge(path, device)
    if len(bridge.bias) != numbers:
        raise UserError(
            f"model.bridge={path}: ends at {len(bridge.bias)} numbers, the model's picture "
            f"embeddings have {numbers}: fit one to this model"
        )
    return bridge
