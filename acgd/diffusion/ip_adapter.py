"""Cross-attention to a picture's embedding for UNets that are told in words (Ye et al. 2023,
IP-Adapter, arXiv 2308.06721)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from acgd.checkpoints import load as checkpoints
from acgd.errors import UserError, first_words

TOKENS = 4  # that the plain kind makes of one embedding
OTHER = "is of a kind that takes more than a picture's embedding (Plus, Full, Face); the plain does"


def take(network: Any, path: str, scale: float) -> int:
    """Put an adapter's weights into a UNet2DConditionModel; returns D, its embeddings' size.

    path: .safetensors or .bin as published, see `acgd.checkpoints.load.locate`. scale: how much the
    picture counts beside the words; 0: nothing. UserError for what is no adapter of the plain kind,
    or one of another UNet.
    """
    if type(network).__name__ != "UNet2DConditionModel":
        raise UserError(
            f"model.ip_adapter={path}: is for Stable Diffusion's UNets, and this model is a"
            f" {type(network).__name__}; model.ip_adapter=null"
        )
    parts = read(path)
    check(network, parts, path)
    try:
        network._load_ip_adapter_weights([parts])
    except (RuntimeError, KeyError, AttributeError, ValueError) as error:
        raise UserError(
            f"model.ip_adapter={path}: does not fit this network ({first_words(error)})"
        ) from None
    for name, processor in network.attn_processors.items():
        if attends_to_words(name):
            processor.scale = [scale]
    return parts["image_proj"]["proj.weight"].shape[1]


def read(path: str) -> dict[str, dict[str, Tensor]]:
    """Its two state dicts, in the file apart or told apart by the beginning of their names."""
    file, names = checkpoints.locate(path), ("image_proj", "ip_adapter")
    try:
        return {name: checkpoints.load_state(file, name) for name in names}
    except UserError as error:
        raise UserError(f"model.ip_adapter={path}: is no IP-Adapter ({error})") from None


def check(network: Any, parts: dict[str, dict[str, Tensor]], path: str) -> None:
    projection = parts["image_proj"].get("proj.weight")
    if projection is None or projection.ndim != 2:
        raise UserError(f"model.ip_adapter={path}: {OTHER}")
    layers = sum(map(attends_to_words, network.attn_processors))
    theirs = sum(name.endswith("to_k_ip.weight") for name in parts["ip_adapter"])
    width, wide = int(network.config.cross_attention_dim), projection.shape[0] // TOKENS
    if (layers, width) != (theirs, wide):
        raise UserError(
            f"model.ip_adapter={path}: does not fit this network: it is for {theirs} layers that "
            f"attend to {wide} numbers, and here are {layers} of {width}"
        )
    if not all(one.isfinite().all() for part in parts.values() for one in part.values()):
        raise UserError(f"model.ip_adapter={path}: holds numbers that are none (NaN)")


def attends_to_words(processor: str) -> bool:
    return not processor.endswith("attn1.processor")
