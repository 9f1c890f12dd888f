"""The config as typed values, read once: what `sample` needs to know beside models and targets.

Below this nothing knows the config.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from acgd.config.instantiate import build
from acgd.diffusion.guidance.guidance import Guidance
from acgd.diffusion.noise import Noise
from acgd.errors import UserError
from acgd.media import preprocess

NOT_GUIDANCE = (
    "losses",
    "cfg_scale",
    "decoder",
)  # keys of the guidance config that Guidance does not take


@dataclass(frozen=True)
class Settings:
    """How a batch of B samples is drawn."""

    seeds: list[int]
    cfg_scale: list[float]  # of each sample: how far it follows its condition; 0: not at all
    weights: dict[str, list[float]]  # loss -> its weight for each sample
    guidance: dict  # the options that samples of a batch share, as `guide` takes them
    skip_steps: int = 0
    init_image: Image.Image | None = None
    class_id: int | None = None
    shared_noise: bool = False
    templates: Sequence[str | None] = ()  # of each sample's words, for networks told in words
    decoder: str = "full"  # what guidance and previews see latents through
    ends_with: str = "sample"  # "x0": the picture is the last prediction

    @property
    def guided(self) -> bool:
        return any(any(weights) for weights in self.weights.values())

    def unguided(self) -> Settings:
        """The same noise, left to itself: neither losses nor condition."""
        return replace(self, weights={}, cfg_scale=[0.0] * len(self.seeds))

    def noise(self) -> Noise:
        return Noise.shared(self.seeds[0]) if self.shared_noise else Noise(self.seeds)

    def init_pixels(self, size: int) -> Tensor | None:
        """The init image's middle square, (1, 3, size, size) in [-1, 1]."""
        if self.init_image is None:
            return None
        return preprocess.pixels(self.init_image, size)[None] * 2 - 1


def read(cfgs: Sequence[dict], init_image: Image.Image | None = None) -> Settings:
    """The settings of a batch from its samples' resolved configs, alike in all that is shared."""
    shared, options = cfgs[0], [cfg["guidance"] for cfg in cfgs]
    return Settings(
        seeds=[cfg["seed"] for cfg in cfgs],
        cfg_scale=[float(own.get("cfg_scale") or 0) for own in options],
        weights={name: [float(own[name] or 0) for own in options] for name in losses(options[0])},
        guidance=options[0],
        skip_steps=shared["skip_steps"],
        init_image=init_image,
        class_id=shared["class_id"],
        shared_noise=shared["shared_noise"],
        templates=[cfg["prompt"].get("template") for cfg in cfgs],
        decoder=options[0].get("decoder", "full"),
        ends_with=shared["picture"],
    )


def losses(options: dict) -> list[str]:
    """The names of a guidance config's losses; each has its weight under the key of its name."""
    named = options.get("losses") or {}
    if missing := [name for name in named if name not in options]:
        raise UserError(f"guidance.losses.{missing[0]} has no weight: add guidance.{missing[0]}")
    return list(named)


def guide(options: dict, weights: dict[str, Any] | None = None, **provided: Any) -> Guidance:
    """Guidance from its config.

    `known`: what losses are made of: encoder, targets, diffusion, noise, init_image. Guidance and
    each loss take what their constructors name. `weights`: those of the config unless given.
    Raises UserError for an option that none of them takes.
    """
    names = losses(options)
    weights = {name: options[name] for name in names} if weights is None else weights
    weights = {name: weight if weight is not None else 0.0 for name, weight in weights.items()}
    nodes = {name: options["losses"][name] for name in names}
    plain = {k: v for k, v in options.items() if k not in (*NOT_GUIDANCE, *names, "_target_")}
    made = {name: build(node, **plain, **provided) for name, node in nodes.items()}
    takers = (Guidance, *map(type, made.values()))
    taken = {key for taker in takers for key in signature(taker).parameters}
    if unknown := sorted(plain.keys() - taken):
        raise UserError(f"guidance.{unknown[0]}: neither guidance nor any of its losses takes it")
    if isinstance(plain.get("schedule"), dict):
        plain["schedule"] = build(plain["schedule"])
    node = {"_target_": options["_target_"]}
    return build(node, losses=made, weights=weights, **plain, **provided)


def scale(values: Sequence[float], device: str | torch.device) -> Tensor:
    """A number for each sample, (B, 1, 1, 1)."""
    return torch.tensor(list(values), device=device)[:, None, None, None]
